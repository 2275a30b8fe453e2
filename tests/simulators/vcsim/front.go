package main

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"

	"github.com/vmware/govmomi/vim25/soap"
)

// lostRule cuts the connection after the work of a call, before its answer: the reply is lost on its way.
type lostRule struct {
	Method string `json:"method"`
	Count  *int   `json:"count"` // default 1
}

// front counts and holds HTTP requests.
type front struct {
	mu     sync.Mutex
	counts map[string]int
	held   map[string]int           // calls that wait now, by method
	gates  map[string]chan struct{} // closed when the method is released
}

func (f *front) init() {
	f.counts, f.held, f.gates = map[string]int{}, map[string]int{}, map[string]chan struct{}{}
}

func (f *front) count(method string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts[method]++
}

func (f *front) hang(method string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gates[method] == nil {
		f.gates[method] = make(chan struct{})
	}
}

func (f *front) release(method string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if gate := f.gates[method]; gate != nil {
		close(gate)
		delete(f.gates, method)
	}
}

func (f *front) releaseAll() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for method, gate := range f.gates {
		close(gate)
		delete(f.gates, method)
	}
}

// pass returns when the method is not held, or no longer. A client that leaves meanwhile does not stop its call:
// a packet may arrive after its sender gave up.
func (f *front) pass(method string) {
	f.mu.Lock()
	gate := f.gates[method]
	if gate == nil {
		f.mu.Unlock()
		return
	}
	f.held[method]++
	f.mu.Unlock()
	<-gate
	f.mu.Lock()
	f.held[method]--
	f.mu.Unlock()
}

// serveFront takes the paths over: a pattern with a method wins over the simulator's without.
func (d *Double) serveFront() {
	d.service.RegisterSDK(d.registry, d.registry.Path+"/vimService")
	for _, path := range []string{d.registry.Path, d.registry.Path + "/vimService"} {
		d.service.ServeMux.HandleFunc("POST "+path, d.serveSDK)
	}
	for _, method := range []string{"GET", "PUT", "POST", "PATCH", "DELETE"} {
		for _, path := range []string{" /rest/", " /api/"} {
			if d.registry.IsVPX() {
				d.service.ServeMux.HandleFunc(method+path, d.serveREST)
			}
		}
	}
	d.service.ServeMux.HandleFunc("POST /pbm/sdk", func(w http.ResponseWriter, r *http.Request) {
		r.URL.Path = "/pbm" // where the simulator has it
		d.service.ServeSDK(w, r)
	})
	for _, method := range []string{"GET", "PUT", "POST"} {
		d.service.ServeMux.HandleFunc(method+" /folder/", d.serveDatastore)
		d.service.ServeMux.HandleFunc(method+" /nfc/", d.serveNFC)
	}
}

// served finishes what needs the simulator's own endpoints to be there.
func (d *Double) served() {
	if d.registry.IsVPX() {
		// No method of ours is OPTIONS, so this finds the handler behind our own.
		d.rest.inner, _ = d.service.ServeMux.Handler(&http.Request{Method: http.MethodOptions, URL: &url.URL{Path: "/rest/"}})
		d.servePolicies()
	}
}

func (d *Double) serveSDK(w http.ResponseWriter, r *http.Request) {
	content, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	method := soapMethod(content)
	if method == "ReconfigVM_Task" {
		content = markEmptyAnnotation(content)
		r.ContentLength = int64(len(content))
	}
	r.Body = io.NopCloser(bytes.NewReader(content))
	d.front.count(method)
	d.front.pass(method)
	key := sessionKey(r)
	d.sessions.begin(key)
	defer d.sessions.end(key)
	switch {
	case d.loses(method):
		d.service.ServeSDK(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler) // net/http closes the connection without a word
	case method == "Fetch":
		d.serveFetch(w, r, content)
	case readsProperties(method):
		d.serveRead(w, r)
	default:
		d.service.ServeSDK(w, r)
	}
}

// fetchedNothing is how a vCenter answers for a property that is unset; the simulator answers as another method
// would, which pyvmomi takes for an unknown property.
const fetchedNothing = `<?xml version="1.0" encoding="UTF-8"?>
<soapenv:Envelope xmlns:soapenv="http://schemas.xmlsoap.org/soap/envelope/"><soapenv:Body>
<FetchResponse xmlns="urn:vim25"/></soapenv:Body></soapenv:Envelope>`

func (d *Double) serveFetch(w http.ResponseWriter, r *http.Request, request []byte) {
	if d.hidden() {
		if refusal := d.unreadable(request); refusal != "" {
			w.WriteHeader(http.StatusInternalServerError)
			_, _ = fmt.Fprint(w, refusal)
			return
		}
	}
	answer := httptest.NewRecorder()
	d.service.ServeSDK(answer, r)
	content := answer.Body.Bytes()
	if soapMethod(content) == "RetrievePropertiesExResponse" {
		content = []byte(fetchedNothing)
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(content)
}

func readsProperties(method string) bool {
	return strings.HasPrefix(method, "RetrieveProperties") || method == "ContinueRetrievePropertiesEx" ||
		strings.HasPrefix(method, "WaitForUpdates") || method == "CheckForUpdates"
}

// serveRead hides what may not be read.
func (d *Double) serveRead(w http.ResponseWriter, r *http.Request) {
	answer := httptest.NewRecorder()
	d.service.ServeSDK(answer, r)
	content := answer.Body.Bytes()
	if d.hidden() {
		content = d.hide(content)
	}
	maps.Copy(w.Header(), answer.Header())
	w.WriteHeader(answer.Code)
	_, _ = w.Write(content)
}

func (d *Double) loses(method string) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, rule := range d.lost {
		if rule.Method == method && *rule.Count > 0 {
			*rule.Count--
			return true
		}
	}
	return false
}

func sessionKey(r *http.Request) string {
	cookie, err := r.Cookie(soap.SessionCookieName)
	if err != nil {
		return ""
	}
	return strings.Trim(cookie.Value, `"`)
}

// soapMethod is the name of the first element of the SOAP body, "" if there is none.
func soapMethod(content []byte) string {
	decoder := xml.NewDecoder(bytes.NewReader(content))
	inBody := false
	for {
		token, err := decoder.Token()
		if err != nil {
			return ""
		}
		if start, ok := token.(xml.StartElement); ok {
			if inBody {
				return start.Name.Local
			}
			inBody = start.Name.Local == "Body"
		}
	}
}
