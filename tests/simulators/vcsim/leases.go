package main

import (
	"archive/tar"
	"context"
	"crypto/sha1"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"net/http"
	"net/url"
	"os"
	"path"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/methods"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func init() {
	replacements["ImportVApp"] = importVApp
	replacements["ExportVm"] = exportMachine
	replacements["ExportSnapshot"] = exportSnapshot
	checks["ExportVm"] = append(checks["ExportVm"], poweredOff)
}

// leaseRules are what POST /leases switches.
type leaseRules struct {
	Timeout      float64 `json:"timeout"`      // seconds without progress after which a lease dies
	Initializing float64 `json:"initializing"` // seconds before a lease is ready
	Star         bool    `json:"star"`         // URLs name the host "*", as a lone ESXi's always do
}

func defaultLeases() leaseRules { return leaseRules{Timeout: 300, Initializing: 0.02} }

// lease is an import or export under way. Source: HttpNfcLease, HttpNfcLeaseState of the API reference.
type lease struct {
	mo.HttpNfcLease

	double *Double
	rules  leaseRules
	vm     types.ManagedObjectReference
	ship   bool // export, else import

	mu       sync.Mutex
	files    map[string]*leaseFile // by the last part of the URL
	lastSign time.Time
}

type leaseFile struct {
	url      types.HttpNfcLeaseDeviceUrl
	path     string // of the bytes
	capacity int64  // of a disk
	entry    *types.HttpNfcLeaseManifestEntry
	kind     string // of the checksum
}

func poweredOff(c *call) types.BaseMethodFault {
	if state := c.machine().Runtime.PowerState; state != types.VirtualMachinePowerStatePoweredOff {
		return &types.InvalidPowerState{RequestedState: types.VirtualMachinePowerStatePoweredOff, ExistingState: state}
	}
	return nil
}

func (d *Double) newLease(ship bool) *lease {
	d.mu.Lock()
	rules := d.leases
	d.mu.Unlock()
	l := &lease{double: d, rules: rules, ship: ship, files: map[string]*leaseFile{}}
	l.Self = types.ManagedObjectReference{Type: "HttpNfcLease", Value: "session-" + uuid.NewString()}
	l.State = types.HttpNfcLeaseStateInitializing
	l.Mode = string(types.HttpNfcLeaseModePushOrGet)
	l.Capabilities = types.HttpNfcLeaseCapabilities{PullModeSupported: !ship, CorsSupported: true}
	d.registry.Put(l)
	return l
}

func (l *lease) update(changes ...types.PropertyChange) {
	l.double.registry.AtomicUpdate(&simulator.Context{Map: l.double.registry}, l, changes)
}

func (l *lease) fail(fault types.BaseMethodFault) {
	l.update(
		types.PropertyChange{Name: "error", Val: &types.LocalizedMethodFault{Fault: fault, LocalizedMessage: fmt.Sprintf("%T", fault)}},
		types.PropertyChange{Name: "state", Val: types.HttpNfcLeaseStateError},
	)
}

func (l *lease) state() types.HttpNfcLeaseState {
	var state types.HttpNfcLeaseState
	l.double.registry.WithLock(&simulator.Context{Map: l.double.registry}, l, func() { state = l.State })
	return state
}

// ready offers the URLs and watches for signs of life.
func (l *lease) ready(vm *simulator.VirtualMachine, devices []types.BaseVirtualDevice) {
	time.Sleep(time.Duration(l.rules.Initializing * float64(time.Second)))
	l.vm = vm.Self
	info := &types.HttpNfcLeaseInfo{Lease: l.Self, Entity: vm.Self, LeaseTimeout: int32(max(l.rules.Timeout, 1))}
	numbers := map[string]int{}
	for _, device := range devices {
		backing, ok := device.GetVirtualDevice().Backing.(types.BaseVirtualDeviceFileBackingInfo)
		if !ok {
			continue
		}
		kind := object.VirtualDeviceList(devices).Type(device)
		disk, isDisk := device.(*types.VirtualDisk)
		if !isDisk && l.ship {
			continue // CD and floppy images stay behind
		}
		name := backing.GetVirtualDeviceFileBackingInfo().FileName
		file := &leaseFile{path: l.double.file(vm.Self, name), kind: string(types.HttpNfcLeaseManifestEntryChecksumTypeSha1)}
		target := path.Base(name)
		if isDisk {
			file.path, file.capacity = flatFile(file.path), disk.CapacityInBytes
			target = fmt.Sprintf("disk-%d.vmdk", numbers[kind])
			info.TotalDiskCapacityInKB += disk.CapacityInKB
		}
		file.url = types.HttpNfcLeaseDeviceUrl{
			Key:       fmt.Sprintf("/%s/%s:%d", vm.Self.Value, kind, numbers[kind]),
			ImportKey: fmt.Sprintf("/%s/%s:%d", vm.Name, kind, numbers[kind]),
			Url:       l.url(target), SslThumbprint: l.double.thumbprint(), Disk: &isDisk, TargetId: target,
		}
		if l.ship {
			file.url.FileSize = disk.CapacityInBytes
		}
		numbers[kind]++
		l.files[target] = file
		info.DeviceUrl = append(info.DeviceUrl, file.url)
	}
	l.sign()
	l.update(
		types.PropertyChange{Name: "initializeProgress", Val: int32(100)},
		types.PropertyChange{Name: "info", Val: info},
		types.PropertyChange{Name: "state", Val: types.HttpNfcLeaseStateReady},
	)
	go l.watch()
}

func (l *lease) url(target string) string {
	at := *l.double.service.Listen
	at.User, at.Path = nil, path.Join("/nfc", l.Self.Value, target)
	if l.rules.Star || l.double.registry.IsESX() {
		at.Host = "*"
	}
	return at.String()
}

// thumbprint is the SHA-1 of the server's certificate, as HttpNfcLeaseDeviceUrl.sslThumbprint has it.
func (d *Double) thumbprint() string {
	if d.service.TLS == nil {
		return ""
	}
	sum := sha1.Sum(d.service.TLS.Certificates[0].Certificate[0])
	return strings.ReplaceAll(fmt.Sprintf("% X", sum), " ", ":")
}

func (l *lease) sign() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.lastSign = time.Now()
}

// watch ends a lease whose client shows no progress. Source: HttpNfcLeaseInfo.leaseTimeout, fault Timedout.
func (l *lease) watch() {
	limit := time.Duration(l.rules.Timeout * float64(time.Second))
	for range time.Tick(min(limit/4, 100*time.Millisecond)) {
		if l.state() != types.HttpNfcLeaseStateReady {
			return
		}
		l.mu.Lock()
		silent := time.Since(l.lastSign)
		l.mu.Unlock()
		if silent > limit {
			l.fail(&types.Timedout{})
			l.abandon()
			return
		}
	}
}

// abandon removes what a failed import made.
func (l *lease) abandon() {
	if l.ship || l.vm.Value == "" {
		return
	}
	ctx := inside()
	client, err := vim25.NewClient(ctx, l.double.service)
	if err == nil {
		err = wait(ctx)(object.NewVirtualMachine(client, l.vm).Destroy(ctx))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "abandoned import:", err)
	}
}

func (l *lease) refusal() *soap.Fault {
	switch l.State {
	case types.HttpNfcLeaseStateReady:
		return nil
	case types.HttpNfcLeaseStateError:
		if l.Error != nil {
			if _, timedOut := l.Error.Fault.(*types.Timedout); timedOut {
				return simulator.Fault("", &types.Timedout{})
			}
		}
	}
	return simulator.Fault("", &types.InvalidState{})
}

// HttpNfcLeaseProgress is a sign of life.
func (l *lease) HttpNfcLeaseProgress(ctx *simulator.Context, req *types.HttpNfcLeaseProgress) soap.HasFault {
	if fault := l.refusal(); fault != nil {
		return &methods.HttpNfcLeaseProgressBody{Fault_: fault}
	}
	l.sign()
	ctx.Update(l, []types.PropertyChange{{Name: "transferProgress", Val: req.Percent}})
	return &methods.HttpNfcLeaseProgressBody{Res: new(types.HttpNfcLeaseProgressResponse)}
}

// HttpNfcLeaseComplete ends the transfer; the imported machine stays.
func (l *lease) HttpNfcLeaseComplete(ctx *simulator.Context, _ *types.HttpNfcLeaseComplete) soap.HasFault {
	if fault := l.refusal(); fault != nil {
		return &methods.HttpNfcLeaseCompleteBody{Fault_: fault}
	}
	ctx.Update(l, []types.PropertyChange{{Name: "state", Val: types.HttpNfcLeaseStateDone}})
	return &methods.HttpNfcLeaseCompleteBody{Res: new(types.HttpNfcLeaseCompleteResponse)}
}

// HttpNfcLeaseAbort gives up; an import leaves nothing.
func (l *lease) HttpNfcLeaseAbort(ctx *simulator.Context, req *types.HttpNfcLeaseAbort) soap.HasFault {
	if fault := l.refusal(); fault != nil {
		return &methods.HttpNfcLeaseAbortBody{Fault_: fault}
	}
	reason := req.Fault
	if reason == nil {
		reason = &types.LocalizedMethodFault{Fault: &types.RequestCanceled{}}
	}
	ctx.Update(l, []types.PropertyChange{{Name: "error", Val: reason}, {Name: "state", Val: types.HttpNfcLeaseStateError}})
	l.abandon()
	return &methods.HttpNfcLeaseAbortBody{Res: new(types.HttpNfcLeaseAbortResponse)}
}

// HttpNfcLeaseGetManifest tells what was transferred.
func (l *lease) HttpNfcLeaseGetManifest(*simulator.Context, *types.HttpNfcLeaseGetManifest) soap.HasFault {
	res := new(types.HttpNfcLeaseGetManifestResponse)
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, device := range l.Info.DeviceUrl {
		if entry := l.files[device.TargetId].entry; entry != nil {
			res.Returnval = append(res.Returnval, *entry)
		}
	}
	return &methods.HttpNfcLeaseGetManifestBody{Res: res}
}

// HttpNfcLeaseSetManifestChecksumType chooses sha1 or sha256 for each device.
func (l *lease) HttpNfcLeaseSetManifestChecksumType(
	_ *simulator.Context, req *types.HttpNfcLeaseSetManifestChecksumType,
) soap.HasFault {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, choice := range req.DeviceUrlsToChecksumTypes {
		for _, file := range l.files {
			if file.url.Key == choice.Key || file.url.Url == choice.Key {
				file.kind = choice.Value
			}
		}
	}
	return &methods.HttpNfcLeaseSetManifestChecksumTypeBody{Res: new(types.HttpNfcLeaseSetManifestChecksumTypeResponse)}
}

// importVApp lets the simulator make the machine, then gives out a lease that takes its bytes. Source:
// ResourcePool.ImportVApp: what is wrong with the specification comes as the lease's error.
func importVApp(c *call) soap.HasFault {
	l := c.double.newLease(false)
	if fault := c.importedNameIsFree(); fault != nil {
		l.fail(fault)
		return &methods.ImportVAppBody{Res: &types.ImportVAppResponse{Returnval: l.Self}}
	}
	answer := c.original()
	if answer.Fault() != nil {
		c.double.registry.Remove(c.ctx, l.Self)
		return answer
	}
	inner := c.ctx.Session.Get(answer.(*methods.ImportVAppBody).Res.Returnval).(*simulator.HttpNfcLease)
	go func() {
		ctx := &simulator.Context{Map: c.double.registry, Session: c.ctx.Session}
		state, info, fault := types.HttpNfcLeaseStateInitializing, (*types.HttpNfcLeaseInfo)(nil), (*types.LocalizedMethodFault)(nil)
		for range time.Tick(5 * time.Millisecond) {
			c.double.registry.WithLock(ctx, inner, func() { state, info, fault = inner.State, inner.Info, inner.Error })
			if state != types.HttpNfcLeaseStateInitializing {
				break
			}
		}
		inner.HttpNfcLeaseComplete(ctx, &types.HttpNfcLeaseComplete{This: inner.Self})
		if state == types.HttpNfcLeaseStateError {
			l.fail(fault.Fault)
			return
		}
		vm := c.double.registry.Get(info.Entity).(*simulator.VirtualMachine)
		l.ready(vm, vm.Config.Hardware.Device)
	}()
	return &methods.ImportVAppBody{Res: &types.ImportVAppResponse{Returnval: l.Self}}
}

func (c *call) importedNameIsFree() types.BaseMethodFault {
	request := c.body.(*types.ImportVApp)
	spec, ok := request.Spec.(*types.VirtualMachineImportSpec)
	dc := c.double.datacenter(c.Self)
	if !ok || dc == nil || !c.double.enabled("duplicate_name") {
		return nil
	}
	ref := dc.VmFolder
	if request.Folder != nil {
		ref = *request.Folder
	}
	if folder, ok := c.double.registry.Get(ref).(*simulator.Folder); ok {
		if other := c.double.registry.FindByName(spec.ConfigSpec.Name, folder.ChildEntity); other != nil {
			return &types.DuplicateName{Name: spec.ConfigSpec.Name, Object: other.Reference()}
		}
	}
	return nil
}

// exportMachine gives out a lease for the disks of a machine that is off. Source: VirtualMachine.ExportVm.
func exportMachine(c *call) soap.HasFault {
	l, vm := c.double.newLease(true), c.machine()
	go l.ready(vm, copyDevices(vm.Config.Hardware.Device))
	return &methods.ExportVmBody{Res: &types.ExportVmResponse{Returnval: l.Self}}
}

// exportSnapshot does so for the disks of a snapshot. Source: VirtualMachineSnapshot.ExportSnapshot.
func exportSnapshot(c *call) soap.HasFault {
	l, snapshot := c.double.newLease(true), c.target.(*simulator.VirtualMachineSnapshot)
	go l.ready(c.machine(), copyDevices(snapshot.Config.Hardware.Device))
	return &methods.ExportSnapshotBody{Res: &types.ExportSnapshotResponse{Returnval: l.Self}}
}

// serveNFC moves the bytes of a lease. The URL is its own secret: no session is asked for.
func (d *Double) serveNFC(w http.ResponseWriter, r *http.Request) {
	parts := strings.Split(strings.TrimPrefix(r.URL.Path, "/nfc/"), "/")
	l, ok := d.registry.Get(types.ManagedObjectReference{Type: "HttpNfcLease", Value: parts[0]}).(*lease)
	if !ok || len(parts) != 2 || l.state() != types.HttpNfcLeaseStateReady || l.files[parts[1]] == nil {
		http.NotFound(w, r)
		return
	}
	file := l.files[parts[1]]
	if l.ship != (r.Method == http.MethodGet || r.Method == http.MethodHead) {
		http.Error(w, "the lease is for the other direction", http.StatusMethodNotAllowed)
		return
	}
	if l.ship {
		d.serveExport(w, r, l, file)
		return
	}
	if err := l.receive(file, d.cutting(r.Body, "/nfc")); err != nil {
		if errors.Is(err, errCut) {
			panic(http.ErrAbortHandler)
		}
		_, _ = io.Copy(io.Discard, r.Body) // or the client would see a broken connection instead of the answer
		http.Error(w, err.Error(), http.StatusInternalServerError)
	}
}

func (d *Double) serveExport(w http.ResponseWriter, r *http.Request, l *lease, file *leaseFile) {
	disk, err := os.Open(file.path)
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	defer disk.Close()
	w.Header().Set("Content-Type", "application/x-vnd.vmware-streamVmdk")
	if r.Method == http.MethodHead {
		return
	}
	sums := newSums()
	if err := writeStream(io.MultiWriter(d.cuttingWriter(w, "/nfc"), sums), disk, file.capacity); err != nil {
		panic(http.ErrAbortHandler) // the length is unknown, so only a broken connection says that something is missing
	}
	l.noted(file, sums)
}

// receive stores what a client sends: a disk must be a streamOptimized VMDK.
func (l *lease) receive(file *leaseFile, body io.Reader) error {
	sums := newSums()
	source := io.TeeReader(body, sums)
	if file.capacity == 0 {
		target, err := os.Create(file.path)
		if err != nil {
			return err
		}
		defer target.Close()
		if _, err := io.Copy(target, source); err != nil {
			return err
		}
	} else {
		put := func(at int64, data []byte) error { return l.double.contents.write(file.path, at, data) }
		if _, err := readStream(source, file.capacity, put); err != nil {
			return err
		}
	}
	if l.state() != types.HttpNfcLeaseStateReady {
		return errors.New("the lease has ended meanwhile")
	}
	l.noted(file, sums)
	return nil
}

func (l *lease) noted(file *leaseFile, sums *sums) {
	l.mu.Lock()
	defer l.mu.Unlock()
	file.entry = &types.HttpNfcLeaseManifestEntry{
		Key: file.url.Key, Sha1: hex.EncodeToString(sums.sha1.Sum(nil)), Size: sums.size, ChecksumType: file.kind,
		Disk: file.capacity > 0, Capacity: file.capacity, Checksum: hex.EncodeToString(sums.sha1.Sum(nil)),
	}
	if file.kind == string(types.HttpNfcLeaseManifestEntryChecksumTypeSha256) {
		file.entry.Checksum = hex.EncodeToString(sums.sha256.Sum(nil))
	}
	if extents, err := allocated(file.path); err == nil {
		for _, e := range extents {
			file.entry.PopulatedSize += e.length
		}
	}
}

type sums struct {
	sha1, sha256 hash.Hash
	size         int64
}

func newSums() *sums { return &sums{sha1: sha1.New(), sha256: sha256.New()} }

func (s *sums) Write(content []byte) (int, error) {
	_, _ = s.sha1.Write(content) // a hash takes everything
	_, _ = s.sha256.Write(content)
	s.size += int64(len(content))
	return len(content), nil
}

// HttpNfcLeasePullFromUrlsTask lets the server fetch the files itself, from plain files or out of an OVA. Source:
// HttpNfcLease.HttpNfcLeasePullFromUrls_Task, HttpNfcLeaseSourceFile.
func (l *lease) HttpNfcLeasePullFromUrlsTask(ctx *simulator.Context, req *types.HttpNfcLeasePullFromUrls_Task) soap.HasFault {
	if fault := l.refusal(); fault != nil {
		return &methods.HttpNfcLeasePullFromUrls_TaskBody{Fault_: fault}
	}
	task := simulator.CreateTask(l.vm, "HttpNfcLeasePullFromUrlsTask", func(*simulator.Task) (types.AnyType, types.BaseMethodFault) {
		for _, source := range req.Files {
			if err := l.pull(source); err != nil {
				return nil, &types.SystemError{Reason: err.Error()}
			}
			l.sign()
		}
		return nil, nil
	})
	own := *ctx // the lease must not stay locked meanwhile
	return &methods.HttpNfcLeasePullFromUrls_TaskBody{
		Res: &types.HttpNfcLeasePullFromUrls_TaskResponse{Returnval: task.Run(&own)},
	}
}

func (l *lease) pull(source types.HttpNfcLeaseSourceFile) error {
	var file *leaseFile
	for _, each := range l.files {
		if source.TargetDeviceId == each.url.ImportKey || source.TargetDeviceId == each.url.Key {
			file = each
		}
	}
	if file == nil {
		return fmt.Errorf("no device %q", source.TargetDeviceId)
	}
	request, err := http.NewRequestWithContext(context.Background(), http.MethodGet, source.Url, nil)
	if err != nil {
		return err
	}
	for _, header := range source.HttpHeaders {
		request.Header.Set(header.Key, header.Value)
	}
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: pinned(source.SslThumbprint)}}
	answer, err := client.Do(request)
	if err != nil {
		return err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return errors.New((&url.Error{Op: "GET", URL: source.Url, Err: errors.New(answer.Status)}).Error())
	}
	if source.MemberName == "" {
		return l.receive(file, answer.Body)
	}
	archive := tar.NewReader(answer.Body)
	for {
		member, err := archive.Next()
		if err != nil {
			return fmt.Errorf("member %s: %w", source.MemberName, err)
		}
		if member.Name == source.MemberName {
			return l.receive(file, archive)
		}
	}
}

// pinned trusts the one certificate with that SHA-1 thumbprint. Source: HttpNfcLeaseSourceFile.sslThumbprint.
func pinned(thumbprint string) *tls.Config {
	if thumbprint == "" {
		return nil
	}
	return &tls.Config{
		InsecureSkipVerify: true, //nolint:gosec // replaced by the check below
		VerifyConnection: func(state tls.ConnectionState) error {
			sum := sha1.Sum(state.PeerCertificates[0].Raw)
			if !strings.EqualFold(strings.ReplaceAll(thumbprint, ":", ""), hex.EncodeToString(sum[:])) {
				return errors.New("the certificate has another thumbprint")
			}
			return nil
		},
	}
}
