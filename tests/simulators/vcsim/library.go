package main

import (
	"archive/tar"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"

	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/mo"
	"github.com/vmware/govmomi/vim25/types"
)

// deployOVF fills the disks of the machine that the simulator makes. Source: com.vmware.vcenter.ovf.LibraryItem.deploy;
// what goes wrong is told in the result's error, and leaves nothing.
func (d *Double) deployOVF(call restRequest) restAnswer {
	answer := d.askInner(call, "")
	var told struct {
		Succeeded bool         `json:"succeeded"`
		Made      taggedObject `json:"resource_id"`
	}
	if !read(answer, &told) || !told.Succeeded {
		var fields map[string]any
		if read(answer, &fields) {
			fields["succeeded"] = false // which the simulator leaves out
			answer.value, _ = json.Marshal(fields)
		}
		return answer
	}
	vm, ok := d.registry.Get(types.ManagedObjectReference{Type: told.Made.Type, Value: told.Made.ID}).(*simulator.VirtualMachine)
	if !ok {
		return answer
	}
	item := filepath.Base(call.path)
	if err := d.fillFromLibrary(vm, d.sourceItem(call, strings.TrimPrefix(item, "id:"))); err != nil {
		d.remove(vm.Self)
		said := map[string]any{"category": "SERVER", "error": map[string]any{
			"@class":   "com.vmware.vapi.std.errors.error",
			"messages": []map[string]any{{"id": "vcsim", "default_message": err.Error(), "args": []string{}}},
		}}
		answer.value, _ = json.Marshal(map[string]any{ // plain maps
			"succeeded": false, "error": map[string]any{"errors": []any{said}, "warnings": []any{}, "information": []any{}},
		})
	}
	return answer
}

// sourceItem is the item that a subscribed library's is a copy of, or the item itself. Source:
// com.vmware.content.library.ItemModel.source_id.
func (d *Double) sourceItem(call restRequest, item string) string {
	var told struct {
		Source string `json:"source_id"`
	}
	read(d.ask(call, http.MethodGet, "/rest/com/vmware/content/library/item/id:"+item, "", nil), &told)
	if told.Source != "" {
		return told.Source
	}
	return item
}

// fillFromLibrary takes the item's VMDKs in the order of their names, as its machine's disks are. An item that came
// in another way than by an upload, a pull or a subscription has no bytes here.
func (d *Double) fillFromLibrary(vm *simulator.VirtualMachine, item string) error {
	d.uploads.pulls.Wait()
	files, err := filepath.Glob(filepath.Join(d.uploads.directory, item, "*.vmdk"))
	if err != nil {
		return err
	}
	for i, disk := range flatDisks(vm.Config.Hardware.Device) {
		if i == len(files) {
			return nil
		}
		content, err := os.Open(files[i])
		if err != nil {
			return err
		}
		defer content.Close()
		target := flatFile(d.file(vm.Self, backingOf(disk).FileName))
		put := func(at int64, data []byte) error { return d.contents.write(target, at, data) }
		if _, err := readStream(content, disk.CapacityInBytes, put); err != nil {
			return fmt.Errorf("%s: %w", filepath.Base(files[i]), err)
		}
	}
	return nil
}

// uploads keeps what library items are made of as it came; the simulator cuts the heads off.
type uploads struct {
	directory string
	pulls     sync.WaitGroup

	mu    sync.Mutex
	items map[string]string // by update session, and by the id in an upload's URL
}

func (u *uploads) note(key, item string) {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.items[key] = item
}

func (u *uploads) item(key string) string {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.items[key]
}

// keep stores a file of an item, an OVA as its members.
func (u *uploads) keep(item, name string, content io.Reader) error {
	directory := filepath.Join(u.directory, item)
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return err
	}
	if !strings.HasSuffix(strings.ToLower(name), ".ova") {
		return keepFile(filepath.Join(directory, filepath.Base(name)), content)
	}
	archive := tar.NewReader(content)
	for {
		member, err := archive.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err == nil {
			err = keepFile(filepath.Join(directory, filepath.Base(member.Name)), archive)
		}
		if err != nil {
			return err
		}
	}
}

func keepFile(path string, content io.Reader) error {
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	defer file.Close()
	_, err = io.Copy(file, content)
	return err
}

// watchUpdate learns from the calls of an update or download session which bytes belong to which item.
func (d *Double) watchUpdate(call restRequest, answer restAnswer) {
	const sessions = "/rest/com/vmware/content/library/item/update-session"
	const downloads = "/rest/com/vmware/content/library/item/download-session"
	const files = "/rest/com/vmware/content/library/item/updatesession/file/id:"
	if answer.kind != "" || call.method != http.MethodPost {
		return
	}
	if call.path == sessions || call.path == downloads {
		var body struct {
			Spec struct {
				Item string `json:"library_item_id"`
			} `json:"create_spec"`
		}
		var session string
		if json.Unmarshal(call.body, &body) == nil && read(answer, &session) {
			d.uploads.note(session, body.Spec.Item)
		}
	}
	if session, ok := strings.CutPrefix(call.path, files); ok && call.query.Get("~action") == "add" {
		var told struct {
			Name   string `json:"name"`
			Upload struct {
				URI string `json:"uri"`
			} `json:"upload_endpoint"`
			Source struct {
				URI string `json:"uri"`
			} `json:"source_endpoint"`
		}
		if !read(answer, &told) {
			return
		}
		item := d.uploads.item(session)
		d.uploads.note(filepath.Base(filepath.Dir(told.Upload.URI)), item)
		if told.Source.URI != "" {
			d.uploads.pulls.Add(1)
			go d.pullFile(item, told.Name, told.Source.URI)
		}
	}
}

func (d *Double) pullFile(item, name, uri string) {
	defer d.uploads.pulls.Done()
	client := &http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}} //nolint:gosec // the simulator has checked
	answer, err := client.Get(uri)
	if err == nil {
		defer answer.Body.Close()
		err = d.uploads.keep(item, name, answer.Body)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "library item:", err) // the simulator tells the client
	}
}

// takeUpload passes an upload on and keeps its bytes; a download gets them.
func (d *Double) takeUpload(w http.ResponseWriter, r *http.Request) {
	item := d.uploads.item(filepath.Base(filepath.Dir(r.URL.Path)))
	if kept := filepath.Join(d.uploads.directory, item, filepath.Base(r.URL.Path)); item != "" && r.Method == http.MethodGet {
		d.uploads.pulls.Wait()
		http.ServeFile(w, r, kept)
		return
	}
	if item == "" || r.Method != http.MethodPut {
		d.rest.inner.ServeHTTP(w, r)
		return
	}
	kept, pipe := io.Pipe()
	stored := make(chan error, 1)
	go func() {
		err := d.uploads.keep(item, filepath.Base(r.URL.Path), kept)
		_, _ = io.Copy(io.Discard, kept) // what an archive has after its end, or the copy would wait for ever
		stored <- err
	}()
	r.Body = io.NopCloser(io.TeeReader(r.Body, pipe))
	d.rest.inner.ServeHTTP(w, r)
	_, _ = io.Copy(io.Discard, r.Body)
	_ = pipe.Close()
	if err := <-stored; err != nil {
		fmt.Fprintln(os.Stderr, "library item:", err)
	}
}

func (d *Double) remove(vm types.ManagedObjectReference) {
	if err := d.withMachine(vm, func(ctx context.Context, own *object.VirtualMachine) error {
		return wait(ctx)(own.Destroy(ctx))
	}); err != nil {
		fmt.Fprintln(os.Stderr, "half-made machine:", err)
	}
}

func (d *Double) withMachine(vm types.ManagedObjectReference, do func(context.Context, *object.VirtualMachine) error) error {
	ctx := inside()
	client, err := vim25.NewClient(ctx, d.service)
	if err != nil {
		return err
	}
	return do(ctx, object.NewVirtualMachine(client, vm))
}

// libraryDeploy is com.vmware.vcenter.vm_template.library_items.DeploySpec in what is heeded of it.
type libraryDeploy struct {
	Name      string            `json:"name"`
	PoweredOn bool              `json:"powered_on"`
	Placement map[string]string `json:"placement"`
	Hardware  struct {
		CPU struct {
			Count int32 `json:"num_cpus"`
		} `json:"cpu_update"`
		Memory struct {
			MiB int64 `json:"memory"`
		} `json:"memory_update"`
	} `json:"hardware_customization"`
}

// libraryTemplate deploys machines; the simulator makes templates of templates. Source:
// com.vmware.vcenter.vm_template.LibraryItems.deploy.
func (d *Double) libraryTemplate(call restRequest) restAnswer {
	deploys := call.method == http.MethodPost && call.query.Get("action") == "deploy"
	var body map[string]json.RawMessage
	var spec libraryDeploy
	if call.method == http.MethodPost {
		if json.Unmarshal(call.body, &body) != nil {
			return failed(http.StatusBadRequest, "invalid_request")
		}
		if json.Unmarshal(body["spec"], &spec) != nil {
			return failed(http.StatusBadRequest, "invalid_argument")
		}
		if spec.Placement != nil {
			d.completePlacement(spec.Placement)
			call.body = withPlacement(body["spec"], spec.Placement)
		}
	}
	answer := d.askInner(call, "")
	var made string
	switch {
	case call.method == http.MethodGet && answer.kind == "":
		answer.value, _ = json.Marshal(map[string]string{"vm_template": d.uploads.item(templateOf(filepath.Base(call.path)))})
		return answer
	case !read(answer, &made):
		return answer
	case call.method == http.MethodPost && call.query.Get("action") == "":
		d.noteTemplate(made, spec.Name)
		return answer
	case !deploys:
		return answer
	}
	vm, ok := d.registry.Get(types.ManagedObjectReference{Type: "VirtualMachine", Value: made}).(*simulator.VirtualMachine)
	if !ok {
		return answer
	}
	err := d.withMachine(vm.Self, func(ctx context.Context, own *object.VirtualMachine) error {
		pool := object.NewResourcePool(own.Client(), types.ManagedObjectReference{
			Type: "ResourcePool", Value: spec.Placement["resource_pool"],
		})
		if err := own.MarkAsVirtualMachine(ctx, *pool, nil); err != nil {
			return err
		}
		change := types.VirtualMachineConfigSpec{NumCPUs: spec.Hardware.CPU.Count, MemoryMB: spec.Hardware.Memory.MiB}
		if change.NumCPUs != 0 || change.MemoryMB != 0 {
			if err := wait(ctx)(own.Reconfigure(ctx, change)); err != nil {
				return err
			}
		}
		if spec.PoweredOn {
			return wait(ctx)(own.PowerOn(ctx))
		}
		return nil
	})
	if err != nil {
		return failed(http.StatusInternalServerError, "error")
	}
	return answer
}

// noteTemplate remembers which machine a template's item is; the simulator does not tell.
func (d *Double) noteTemplate(item, name string) {
	for _, vm := range d.machines() {
		if vm.Name == name && vm.Config.Template {
			d.uploads.note(templateOf(item), vm.Self.Value)
		}
	}
}

func templateOf(item string) string { return "template of " + strings.TrimPrefix(item, "id:") }

// completePlacement fills in what a vCenter derives: the pool of a cluster or host, and the folder.
func (d *Double) completePlacement(placement map[string]string) {
	if placement["resource_pool"] == "" {
		for _, kind := range []string{"ClusterComputeResource", "HostSystem"} {
			key := map[string]string{"ClusterComputeResource": "cluster", "HostSystem": "host"}[kind]
			ref := types.ManagedObjectReference{Type: kind, Value: placement[key]}
			if host, ok := d.registry.Get(ref).(*simulator.HostSystem); ok {
				ref = *host.Parent
			}
			switch owner := d.registry.Get(ref).(type) {
			case *simulator.ClusterComputeResource:
				placement["resource_pool"] = owner.ResourcePool.Value
			case *mo.ComputeResource:
				placement["resource_pool"] = owner.ResourcePool.Value
			}
		}
	}
	if placement["folder"] == "" {
		ref := types.ManagedObjectReference{Type: "ResourcePool", Value: placement["resource_pool"]}
		if dc := d.datacenter(ref); dc != nil {
			placement["folder"] = dc.VmFolder.Value
		}
	}
}

func withPlacement(spec json.RawMessage, placement map[string]string) json.RawMessage {
	var fields map[string]any
	_ = json.Unmarshal(spec, &fields) // the caller has read it already
	fields["placement"] = placement
	body, _ := json.Marshal(map[string]any{"spec": fields}) // plain maps
	return body
}
