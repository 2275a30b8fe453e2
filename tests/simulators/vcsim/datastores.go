package main

import (
	"errors"
	"io"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/soap"
	"github.com/vmware/govmomi/vim25/types"
)

func init() {
	for _, method := range []string{
		"CreateVirtualDisk_Task", "ExtendVirtualDisk_Task", "DeleteVirtualDisk_Task", "MoveVirtualDisk_Task",
		"CopyVirtualDisk_Task", "CopyDatastoreFile_Task", "MoveDatastoreFile_Task", "DeleteDatastoreFile_Task",
	} {
		replacements[method] = retold
	}
	replacements["CopyVirtualDisk_Task"] = copyVirtualDisk
}

// retold does the simulator's work under a task that is about the datacenter: pyvmomi cannot decode one about a
// manager, since TaskInfo.entity is a ManagedEntity. Then the disk gets its bytes.
func retold(c *call) soap.HasFault {
	return c.task(func() (types.AnyType, types.BaseMethodFault) {
		result, fault := c.outcomeFor(c.original(), c.Self)
		if fault != nil {
			return nil, fault
		}
		switch request := c.body.(type) {
		case *types.CreateVirtualDisk_Task:
			c.resized(request.Name)
		case *types.ExtendVirtualDisk_Task:
			c.resized(request.Name)
		case *types.DeleteVirtualDisk_Task:
			c.double.contents.remove(flatFile(c.double.file(c.entity(), request.Name)))
		}
		return result, nil
	})
}

func (c *call) resized(name string) {
	if file := c.double.file(c.entity(), name); file != "" {
		_ = c.double.contents.fit(file) // the file is there: the simulator has just written it
	}
}

// managed is the datacenter that a request to a file or disk manager names; a lone host has only one.
func (c *call) managed() (types.ManagedObjectReference, bool) {
	var named *types.ManagedObjectReference
	switch request := c.body.(type) {
	case *types.CreateVirtualDisk_Task:
		named = request.Datacenter
	case *types.ExtendVirtualDisk_Task:
		named = request.Datacenter
	case *types.DeleteVirtualDisk_Task:
		named = request.Datacenter
	case *types.DeleteDatastoreFile_Task:
		named = request.Datacenter
	case *types.CopyVirtualDisk_Task:
		named = request.SourceDatacenter
	case *types.MoveVirtualDisk_Task:
		named = request.SourceDatacenter
	case *types.CopyDatastoreFile_Task:
		named = request.SourceDatacenter
	case *types.MoveDatastoreFile_Task:
		named = request.SourceDatacenter
	default:
		return types.ManagedObjectReference{}, false
	}
	if named == nil {
		return c.double.registry.Any("Datacenter").Reference(), true
	}
	return *named, true
}

// copyVirtualDisk copies the bytes and keeps the holes. A disk with parents becomes one of its own. Source:
// VirtualDiskManager.CopyVirtualDisk_Task, faults FileNotFound, FileAlreadyExists.
func copyVirtualDisk(c *call) soap.HasFault {
	request := c.body.(*types.CopyVirtualDisk_Task)
	target := c.entity()
	if request.DestDatacenter != nil {
		target = *request.DestDatacenter
	}
	return c.task(func() (types.AnyType, types.BaseMethodFault) {
		from, to := c.double.file(c.entity(), request.SourceName), c.double.file(target, request.DestName)
		if from == "" || to == "" {
			return nil, &types.InvalidDatastorePath{DatastorePath: request.DestName}
		}
		if err := c.double.contents.fit(from); err != nil {
			return nil, &types.FileNotFound{FileFault: types.FileFault{File: request.SourceName}}
		}
		if _, err := os.Stat(to); err == nil && !isTrue(request.Force) {
			return nil, &types.FileAlreadyExists{FileFault: types.FileFault{File: request.DestName}}
		}
		info, err := os.Stat(flatFile(from))
		if err == nil {
			err = c.double.contents.duplicate(flatFile(from), flatFile(to))
		}
		if err == nil {
			err = writeDescriptor(to, "VMFS", info.Size())
		}
		if err != nil {
			return nil, &types.CannotCreateFile{FileFault: types.FileFault{File: request.DestName}}
		}
		return nil, nil
	})
}

var deltaContent = regexp.MustCompile(`-\d{6}-flat\.vmdk$`)

// serveDatastore wants a session, as a vCenter does, and hides the bytes of deltas, which are in no flat file there.
// Source: "vSphere Web Services SDK Programming Guide", HTTP access to vSphere server files; the simulator lets
// anybody in.
func (d *Double) serveDatastore(w http.ResponseWriter, r *http.Request) {
	if d.enabled("authentication") && !d.knowsSession(sessionKey(r)) {
		http.Error(w, "no session", http.StatusUnauthorized)
		return
	}
	file := d.asked(r)
	written := r.Method == http.MethodPut || r.Method == http.MethodPost
	switch {
	case file == "":
	case !written && deltaContent.MatchString(file):
		http.NotFound(w, r)
		return
	case !written && strings.HasSuffix(file, "-flat.vmdk"):
		_ = d.contents.fit(strings.TrimSuffix(file, "-flat.vmdk") + ".vmdk") // without a descriptor it is just a file
	case written:
		cut := d.cutting(r.Body, "/folder")
		r.Body = io.NopCloser(cut)
		defer func() {
			if cut.cut {
				panic(http.ErrAbortHandler)
			}
			d.contents.replaced(file)
		}()
	}
	if !written {
		w = &cutResponse{w, d.cuttingWriter(w, "/folder")}
	}
	d.service.ServeDatastore(w, r)
}

// asked is the path on disk of a /folder request.
func (d *Double) asked(r *http.Request) string {
	query := r.URL.Query()
	for _, entity := range d.registry.All("Datacenter") {
		dc, ok := entity.(*simulator.Datacenter)
		if !ok || (query.Get("dcPath") != "" && path.Base(query.Get("dcPath")) != dc.Name) {
			continue
		}
		if datastore, ok := d.registry.FindByName(query.Get("dsName"), dc.Datastore).(*simulator.Datastore); ok {
			return filepath.Join(datastore.Summary.Url, strings.TrimPrefix(r.URL.Path, "/folder/"))
		}
	}
	return ""
}

// replaced forgets a file's history: somebody has put other bytes in its place.
func (s *contents) replaced(file string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.layers, file)
}

// cutRule breaks transfers off.
type cutRule struct {
	Path  string `json:"path"`  // /nfc or /folder
	After int64  `json:"after"` // bytes that still pass
	Count *int   `json:"count"` // default 1
}

var errCut = errors.New("the connection is cut")

// allowance is how many bytes the next transfer may move, -1 for all.
func (d *Double) allowance(path string) int64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, rule := range d.cuts {
		if rule.Path == path && *rule.Count != 0 {
			*rule.Count--
			return rule.After
		}
	}
	return -1
}

type cutReader struct {
	r    io.Reader
	left int64
	cut  bool
}

func (d *Double) cutting(r io.Reader, path string) *cutReader {
	return &cutReader{r: r, left: d.allowance(path)}
}

func (c *cutReader) Read(into []byte) (int, error) {
	if c.left < 0 {
		return c.r.Read(into)
	}
	if c.left == 0 {
		c.cut = true
		return 0, errCut
	}
	n, err := c.r.Read(into[:min(int64(len(into)), c.left)])
	c.left -= int64(n)
	return n, err
}

type cutWriter struct {
	w    http.ResponseWriter
	left int64
}

func (d *Double) cuttingWriter(w http.ResponseWriter, path string) *cutWriter {
	return &cutWriter{w, d.allowance(path)}
}

func (c *cutWriter) Write(content []byte) (int, error) {
	if c.left < 0 || int64(len(content)) <= c.left {
		if c.left >= 0 {
			c.left -= int64(len(content))
		}
		return c.w.Write(content)
	}
	_, _ = c.w.Write(content[:c.left]) // as far as it comes
	if flusher, ok := c.w.(http.Flusher); ok {
		flusher.Flush()
	}
	panic(http.ErrAbortHandler)
}

type cutResponse struct {
	http.ResponseWriter
	out *cutWriter
}

func (c *cutResponse) Write(content []byte) (int, error) { return c.out.Write(content) }
