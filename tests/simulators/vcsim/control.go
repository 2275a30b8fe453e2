package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"time"

	"github.com/vmware/govmomi/vim25/types"
)

type named struct {
	Method string `json:"method"`
}

// controls is the control port: JSON in, JSON out; 400 and {"error"} for what it does not understand.
func (d *Double) controls() http.Handler {
	mux := http.NewServeMux()
	post(mux, "behaviours", d.switchBehaviours)
	post(mux, "faults", func(rule faultRule) (any, error) { return nil, d.addFault(&rule) })
	post(mux, "slow", d.addSlow)
	post(mux, "slow/release", func(struct{}) (any, error) { return d.releaseSlow(), nil })
	post(mux, "hang", func(n named) (any, error) { d.front.hang(n.Method); return nil, nil })
	post(mux, "release", func(n named) (any, error) { d.front.release(n.Method); return nil, nil })
	post(mux, "lose_reply", d.addLost)
	post(mux, "sessions/drop", func(struct{}) (any, error) {
		d.rest.expelAll()
		return d.drop(func(types.UserSession) bool { return true }), nil
	})
	post(mux, "rest/faults", d.addRESTFault)
	post(mux, "sessions/idle", func(limit struct {
		Seconds float64 `json:"seconds"`
	}) (any, error) {
		d.sessions.setIdle(time.Duration(limit.Seconds * float64(time.Second)))
		return nil, nil
	})
	post(mux, "guest", func(facts guestFacts) (any, error) { return nil, d.setGuest(facts) })
	post(mux, "shutdown", d.setShutdown)
	post(mux, "collectors/stale", d.makeStale)
	post(mux, "datastore", d.setDatastore)
	post(mux, "deny", d.deny)
	post(mux, "leases", d.setLeases)
	post(mux, "question", d.addQuestion)
	post(mux, "reach", d.setReach)
	post(mux, "status", d.setStatus)
	post(mux, "storage_drs", d.setStorage)
	post(mux, "transfers/cut", d.addCut)
	post(mux, "disk/write", d.writeDisk)
	post(mux, "disk/read", d.readDisk)
	post(mux, "act", d.act)
	post(mux, "reset", func(struct{}) (any, error) { d.reset(); return nil, nil })
	post(mux, "requests/reset", func(struct{}) (any, error) { d.front.forget(); return nil, nil })
	get(mux, "requests", func() any { counts, _ := d.front.seen(); return counts })
	get(mux, "held", func() any { _, held := d.front.seen(); return held })
	get(mux, "vms", func() any { return d.list() })
	return mux
}

func post[T any](mux *http.ServeMux, name string, do func(T) (any, error)) {
	mux.HandleFunc("POST /"+name, func(w http.ResponseWriter, r *http.Request) {
		var body T
		decoder := json.NewDecoder(r.Body)
		decoder.DisallowUnknownFields()
		if err := decoder.Decode(&body); err != nil {
			answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		result, err := do(body)
		if err != nil {
			answer(w, http.StatusBadRequest, map[string]string{"error": err.Error()})
			return
		}
		answer(w, http.StatusOK, result)
	})
}

func get(mux *http.ServeMux, name string, read func() any) {
	mux.HandleFunc("GET /"+name, func(w http.ResponseWriter, _ *http.Request) { answer(w, http.StatusOK, read()) })
}

func answer(w http.ResponseWriter, status int, value any) {
	var out bytes.Buffer
	if err := json.NewEncoder(&out).Encode(value); err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_, _ = w.Write(out.Bytes())
}

func (d *Double) switchBehaviours(wanted map[string]bool) (any, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for name := range wanted {
		if _, ok := d.on[name]; !ok {
			return nil, fmt.Errorf("no behaviour %q", name)
		}
	}
	maps.Copy(d.on, wanted)
	return d.on, nil
}

func (d *Double) addSlow(rule slowRule) (any, error) {
	if _, ok := taskReplies[rule.Method]; !ok {
		return nil, fmt.Errorf("%s has no task here", rule.Method)
	}
	rule.Count = countOf(rule.Count)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.slow = append(d.slow, &rule)
	return nil, nil
}

func (d *Double) addLost(rule lostRule) (any, error) {
	rule.Count = countOf(rule.Count)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.lost = append(d.lost, &rule)
	return nil, nil
}

func (d *Double) addCut(rule cutRule) (any, error) {
	if rule.Path != "/nfc" && rule.Path != "/folder" {
		return nil, fmt.Errorf("path %q is neither /nfc nor /folder", rule.Path)
	}
	rule.Count = countOf(rule.Count)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.cuts = append(d.cuts, &rule)
	return nil, nil
}

// setLeases takes the rules of leases to come; what is left out is as at the start.
func (d *Double) setLeases(raw json.RawMessage) (any, error) {
	rules := defaultLeases()
	decoder := json.NewDecoder(bytes.NewReader(raw))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(&rules); err != nil {
		return nil, err
	}
	if rules.Timeout <= 0 {
		return nil, fmt.Errorf("timeout %v is not above 0", rules.Timeout)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.leases = rules
	return nil, nil
}

// countOf reads a rule's count: absent is once, 0 is always, which counts down from below zero.
func countOf(count *int) *int {
	switch {
	case count == nil:
		return types.New(1)
	case *count == 0:
		return types.New(-1)
	}
	return count
}

// releaseSlow lets every slow task end now and says how many there were.
func (d *Double) releaseSlow() int {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, task := range d.running {
		task.release()
	}
	return len(d.running)
}

func (d *Double) setShutdown(wanted struct {
	Mode string `json:"mode"`
}) (any, error) {
	if wanted.Mode != "obey" && wanted.Mode != "deaf" {
		return nil, fmt.Errorf("mode %q is neither obey nor deaf", wanted.Mode)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	d.shutdown = wanted.Mode
	return nil, nil
}

func (f *front) forget() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.counts = map[string]int{}
}

func (f *front) seen() (counts, held map[string]int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return maps.Clone(f.counts), maps.Clone(f.held)
}
