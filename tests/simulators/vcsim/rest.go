package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"time"
)

const (
	restToken = "vmware-api-session-id"
	restLogin = "/rest/com/vmware/cis/session"
)

// restSide is vCenter's REST interface in both dialects: `/rest` as the simulator speaks it, and `/api` of vCenter 7
// and later, which is turned into the former. Source: vSphere Automation API reference.
type restSide struct {
	inner http.Handler // the simulator's

	mu     sync.Mutex
	tokens map[string]time.Time // last use
	faults []*restFault
}

// restFault makes REST calls fail.
type restFault struct {
	Path   string `json:"path"`   // beginning, without the dialect: "cis/tagging/tag"
	Status int    `json:"status"` // HTTP
	Type   string `json:"type"`   // of com.vmware.vapi.std.errors: "unauthorized"
	Count  *int   `json:"count"`  // default 1; 0 is always
}

// restRequest is a call in the words of `/rest`.
type restRequest struct {
	method, path string
	query        url.Values
	body         json.RawMessage
	token        string
}

// restAnswer is what came of it; kind is an error's, in the words of com.vmware.vapi.std.errors.
type restAnswer struct {
	status   int
	kind     string
	messages json.RawMessage
	value    json.RawMessage // nil for none
	header   http.Header
}

func failed(status int, kind string) restAnswer { return restAnswer{status: status, kind: kind} }

func (d *Double) serveREST(w http.ResponseWriter, r *http.Request) {
	api := strings.HasPrefix(r.URL.Path, "/api")
	if strings.HasPrefix(r.URL.Path, "/rest/com/vmware/cis/data/") {
		d.takeUpload(w, r)
		return
	}
	if strings.HasPrefix(r.URL.Path, "/api/content/library/") &&
		strings.Contains(r.URL.Path, "/usages") || r.URL.Path == "/api" || api && !d.enabled("api") {
		d.passREST(w, r)
		return
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	call := restRequest{method: r.Method, path: r.URL.Path, query: r.URL.Query(), body: body, token: tokenOf(r)}
	named := strings.TrimPrefix(strings.TrimPrefix(call.path, "/api/"), "/rest/")
	known := true
	if api {
		known = call.fromAPI()
	}
	d.front.count(r.Method + " " + named)
	d.front.pass(r.Method + " " + named)
	var answer restAnswer
	switch fault := d.rest.takeFault(named); {
	case fault != nil:
		answer = failed(fault.Status, fault.Type)
	case !known:
		http.NotFound(w, r)
		return
	case call.path == restLogin:
		answer = d.restSession(call, r)
	case !d.rest.admits(call.token, d.sessions.limit()):
		answer = failed(http.StatusUnauthorized, "unauthenticated")
	default:
		answer = d.restCall(call)
		d.watchUpdate(call, answer)
	}
	if api {
		answer.writeAPI(w, r)
	} else {
		answer.writeREST(w)
	}
}

// passREST leaves a call to the simulator; without the `/api` dialect there is nothing at its paths.
func (d *Double) passREST(w http.ResponseWriter, r *http.Request) {
	if strings.HasPrefix(r.URL.Path, "/api") && !d.enabled("api") {
		http.NotFound(w, r)
		return
	}
	d.rest.inner.ServeHTTP(w, r)
}

func tokenOf(r *http.Request) string {
	if token := r.Header.Get(restToken); token != "" {
		return token
	}
	if cookie, err := r.Cookie(restToken); err == nil {
		return cookie.Value
	}
	return ""
}

// restSession logs in and out, and tells of a session.
func (d *Double) restSession(call restRequest, r *http.Request) restAnswer {
	if call.method == http.MethodPost && call.query.Get("~action") == "" {
		answer := d.askInner(call, r.Header.Get("Authorization"))
		var token string
		if answer.kind == "" && json.Unmarshal(answer.value, &token) == nil {
			d.rest.admit(token)
		}
		return answer
	}
	if !d.rest.admits(call.token, d.sessions.limit()) {
		return failed(http.StatusUnauthorized, "unauthenticated")
	}
	if call.method == http.MethodDelete {
		d.rest.expel(call.token)
	}
	return d.askInner(call, "")
}

func (s *restSide) admit(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens[token] = time.Now()
}

func (s *restSide) expel(token string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.tokens, token)
}

func (s *restSide) expelAll() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.tokens = map[string]time.Time{}
}

func (s *restSide) admits(token string, idle time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	last, ok := s.tokens[token]
	if !ok || (idle > 0 && time.Since(last) > idle) {
		delete(s.tokens, token)
		return false
	}
	s.tokens[token] = time.Now()
	return true
}

func (s *restSide) takeFault(path string) *restFault {
	s.mu.Lock()
	defer s.mu.Unlock()
	path = strings.TrimPrefix(path, "com/vmware/")
	for _, fault := range s.faults {
		if strings.HasPrefix(path, fault.Path) && *fault.Count != 0 {
			*fault.Count--
			return fault
		}
	}
	return nil
}

func (d *Double) addRESTFault(fault restFault) (any, error) {
	fault.Count = countOf(fault.Count)
	d.rest.mu.Lock()
	defer d.rest.mu.Unlock()
	d.rest.faults = append(d.rest.faults, &fault)
	return nil, nil
}

func (s *sessions) limit() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.idle
}

// ask is a call on behalf of a client's session.
func (d *Double) ask(call restRequest, method, path, action string, body any) restAnswer {
	content, err := json.Marshal(body)
	if err != nil {
		return failed(http.StatusInternalServerError, "internal_server_error")
	}
	query := url.Values{}
	if action != "" {
		query.Set("~action", action)
	}
	return d.askInner(restRequest{method: method, path: path, query: query, body: content, token: call.token}, "")
}

// askInner lets the simulator answer, and reads what it means by its several ways of saying no.
func (d *Double) askInner(call restRequest, authorization string) restAnswer {
	target := url.URL{Path: call.path, RawQuery: call.query.Encode()}
	if len(call.body) == 0 {
		call.body = json.RawMessage("{}") // it wants a body even where the API has none
	}
	request := httptest.NewRequest(call.method, target.String(), bytes.NewReader(call.body))
	request.Header.Set(restToken, call.token)
	if authorization != "" {
		request.Header.Del(restToken)
		request.Header.Set("Authorization", authorization)
	}
	recorder := httptest.NewRecorder()
	d.rest.inner.ServeHTTP(recorder, request)
	content := bytes.TrimSpace(recorder.Body.Bytes())
	answer := restAnswer{status: recorder.Code, header: recorder.Header()}
	var told struct {
		Type      string          `json:"type"`
		ErrorType string          `json:"error_type"`
		Value     json.RawMessage `json:"value"`
	}
	_ = json.Unmarshal(content, &told) // text of net/http is no JSON, and says nothing more than its status
	switch {
	case recorder.Code < http.StatusMultipleChoices:
		answer.value = told.Value
		if string(told.Value) == "null" {
			answer.value = json.RawMessage("[]")
		}
	case told.Type != "":
		answer.kind = told.Type[strings.LastIndex(told.Type, ".")+1:]
	case told.ErrorType != "":
		answer.kind = strings.ToLower(told.ErrorType)
	case recorder.Code == http.StatusNotFound:
		answer.kind = "not_found"
	case recorder.Code == http.StatusUnauthorized:
		answer.kind = "unauthenticated"
	default:
		answer.kind = "error"
		said, _ := json.Marshal([]map[string]any{{"id": "vcsim", "default_message": string(content), "args": []string{}}})
		answer.messages = said
	}
	return answer
}

func (a restAnswer) said() json.RawMessage {
	if a.messages != nil {
		return a.messages
	}
	said, _ := json.Marshal([]map[string]any{{ // strings are always JSON
		"id": "com.vmware.vapi." + a.kind, "default_message": strings.ReplaceAll(a.kind, "_", " "), "args": []string{},
	}})
	return said
}

func (a restAnswer) writeREST(w http.ResponseWriter) {
	for _, cookie := range a.header["Set-Cookie"] {
		w.Header().Add("Set-Cookie", cookie)
	}
	if a.kind != "" {
		answer(w, a.status, map[string]any{
			"type": "com.vmware.vapi.std.errors." + a.kind, "value": map[string]any{"messages": a.said()},
		})
		return
	}
	if a.value == nil {
		w.WriteHeader(a.status)
		return
	}
	answer(w, a.status, map[string]any{"value": a.value})
}

func (a restAnswer) writeAPI(w http.ResponseWriter, r *http.Request) {
	if a.kind != "" {
		answer(w, a.status, map[string]any{"error_type": strings.ToUpper(a.kind), "messages": a.said()})
		return
	}
	if a.value == nil {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	status := http.StatusOK
	if r.Method == http.MethodPost && r.URL.Query().Get("action") == "" {
		status = http.StatusCreated
	}
	answer(w, status, a.value)
}

// fromAPI rewrites a call of `/api` into the words of `/rest`; false for a path that `/api` does not have here.
func (c *restRequest) fromAPI() bool {
	parts := strings.Split(strings.Trim(strings.TrimPrefix(c.path, "/api"), "/"), "/")
	action := c.query.Get("action")
	old := url.Values{}
	for name, values := range c.query {
		if name != "action" {
			old[name] = values
		}
	}
	if action != "" {
		old.Set("~action", action)
	}
	path := strings.Join(parts, "/")
	under := func(base string) (string, bool) {
		if path == base {
			return "", true
		}
		rest, ok := strings.CutPrefix(path, base+"/")
		return rest, ok && !strings.Contains(rest, "/")
	}
	for _, own := range []string{"vcenter/storage/policies", "vcenter/vm/"} {
		if strings.HasPrefix(path, own) {
			c.path = "/rest/" + path
			return true
		}
	}
	if rest, ok := strings.CutPrefix(path, "vcenter/vm-template/library-items"); ok {
		c.path = "/rest/vcenter/vm-template/library-items" + rest // its action has no tilde
		c.wrap("spec")
		return true
	}
	if path == "session" {
		c.path, c.query = restLogin, old
		if c.method == http.MethodGet {
			c.method = http.MethodPost
			c.query.Set("~action", "get")
		}
		return true
	}
	if c.fromSessionFiles(parts, old) || c.fromItemFiles(parts, old) {
		return true
	}
	for _, base := range []string{
		"cis/tagging/category", "cis/tagging/tag", "cis/tagging/tag-association",
		"content/library/item/update-session", "content/library/item/download-session",
		"content/library/subscribed-item", "content/library/item", "content/local-library", "content/subscribed-library",
		"content/library", "vcenter/ovf/library-item",
	} {
		id, ok := under(base)
		if !ok {
			continue
		}
		c.query = old
		c.path = "/rest/com/vmware/" + base
		switch {
		case action == "list-tags-for-category":
			var named struct {
				Category string `json:"category_id"`
			}
			_ = json.Unmarshal(c.body, &named) // an empty id is not found
			c.path += "/id:" + named.Category
		case id != "":
			c.path += "/id:" + id
		}
		switch {
		case action == "find":
			c.wrap("spec")
		case c.method == http.MethodPatch:
			c.wrap("update_spec")
		case c.method == http.MethodPost && action == "" && base != "vcenter/ovf/library-item":
			c.wrap("create_spec")
		}
		return true
	}
	return false
}

func (c *restRequest) wrap(name string) {
	if len(c.body) > 0 {
		wrapped, err := json.Marshal(map[string]json.RawMessage{name: c.body})
		if err == nil { // else it was no JSON, which the simulator says
			c.body = wrapped
		}
	}
}

// fromSessionFiles knows the files of update and download sessions, which `/rest` has elsewhere.
func (c *restRequest) fromSessionFiles(parts []string, old url.Values) bool {
	if len(parts) < 6 || strings.Join(parts[:3], "/") != "content/library/item" || parts[5] != "file" {
		return false
	}
	kind, session := parts[3], parts[4]
	c.path = "/rest/com/vmware/content/library/item/" + strings.ReplaceAll(kind, "-", "") + "/file"
	c.query = old
	named := func(action string) {
		c.method = http.MethodPost
		c.path += "/id:" + session
		c.query.Set("~action", action)
		if len(parts) == 7 {
			c.body, _ = json.Marshal(map[string]string{"file_name": parts[6]}) // strings are always JSON
		}
	}
	switch {
	case c.method == http.MethodGet && len(parts) == 6:
		c.query.Set(strings.ReplaceAll(kind, "-", "_")+"_id", session)
	case c.method == http.MethodGet:
		named("get")
	case c.method == http.MethodDelete:
		named("remove")
	case old.Get("~action") == "":
		c.wrap("file_spec")
		named("add")
	default:
		named(old.Get("~action"))
	}
	return kind == "update-session" || kind == "download-session"
}

// fromItemFiles knows what belongs to an item.
func (c *restRequest) fromItemFiles(parts []string, old url.Values) bool {
	if len(parts) < 5 || strings.Join(parts[:3], "/") != "content/library/item" ||
		(parts[4] != "file" && parts[4] != "storage") {
		return false
	}
	c.path = "/rest/com/vmware/content/library/item/" + parts[4]
	c.query = old
	c.query.Set("library_item_id", parts[3])
	if len(parts) == 6 {
		c.method = http.MethodPost
		c.path += "/id:" + parts[3]
		c.query.Set("~action", "get")
		c.body, _ = json.Marshal(map[string]string{"name": parts[5], "file_name": parts[5]}) // strings are always JSON
	}
	return true
}
