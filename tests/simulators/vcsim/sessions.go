package main

import (
	"reflect"
	"strings"
	"sync"
	"time"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// sessions knows which sessions are at work: a session with a call under way is not idle.
type sessions struct {
	mu    sync.Mutex
	idle  time.Duration // 0: never
	calls map[string]int
	last  map[string]time.Time
	ended map[string]chan struct{}
}

func (s *sessions) init() {
	s.calls, s.last, s.ended = map[string]int{}, map[string]time.Time{}, map[string]chan struct{}{}
}

func (s *sessions) setIdle(limit time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.idle = limit
}

func (s *sessions) begin(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[key]++
}

func (s *sessions) end(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.calls[key]--
	s.last[key] = time.Now()
}

// gone is closed when the session ends.
func (s *sessions) gone(key string) <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended[key] == nil {
		s.ended[key] = make(chan struct{})
	}
	return s.ended[key]
}

func (s *sessions) markGone(key string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.ended[key] == nil {
		s.ended[key] = make(chan struct{})
	}
	close(s.ended[key])
	delete(s.ended, key)
	delete(s.calls, key)
	delete(s.last, key)
}

func (s *sessions) expired(session types.UserSession, now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.idle == 0 || s.calls[session.Key] > 0 {
		return false
	}
	last := session.LastActiveTime
	if s.last[session.Key].After(last) {
		last = s.last[session.Key]
	}
	return now.Sub(last) > s.idle
}

// watchIdle ends idle sessions. Source: vCenter's 30 minutes, config.vmacore.soap.sessionTimeout.
func (d *Double) watchIdle() {
	for now := range time.Tick(50 * time.Millisecond) {
		d.drop(func(session types.UserSession) bool { return d.sessions.expired(session, now) })
	}
}

// manager is the session manager as a session of our own sees it, with the list of sessions filled.
func (d *Double) manager() (*simulator.SessionManager, *simulator.Session) {
	own := &simulator.Session{Registry: simulator.NewRegistry(), Map: d.registry}
	return own.Get(d.registry.SessionManager().Self).(*simulator.SessionManager), own
}

// drop ends the chosen sessions and says how many.
func (d *Double) drop(chosen func(types.UserSession) bool) int {
	manager, own := d.manager()
	var keys []string
	for _, session := range manager.SessionList {
		if chosen(session) {
			keys = append(keys, session.Key)
		}
	}
	if len(keys) > 0 {
		ctx := &simulator.Context{Map: d.registry, Session: own}
		manager.TerminateSession(ctx, &types.TerminateSession{This: manager.Self, SessionId: keys})
	}
	for _, key := range keys {
		d.sessions.markGone(key)
		d.dropCollectors(func(each *collector) bool { return each.session == key })
	}
	return len(keys)
}

func (d *Double) knowsSession(key string) bool {
	manager, _ := d.manager()
	for _, session := range manager.SessionList {
		if session.Key == key {
			return true
		}
	}
	return false
}

func notAuthenticated(object types.ManagedObjectReference) types.BaseMethodFault {
	return &types.NotAuthenticated{NoPermission: types.NoPermission{Object: &object, PrivilegeId: "System.View"}}
}

// anonymous says whether a call needs no session: privilege System.Anonymous of the API reference. The simulator
// lets everybody read everything.
func anonymous(method *simulator.Method) bool {
	name := method.Name
	if strings.HasPrefix(name, "Login") || name == "CloneSession" || name == "RetrieveServiceContent" ||
		name == "RetrieveInternalContent" || name == "CurrentTime" {
		return true
	}
	switch body := method.Body.(type) {
	case *types.RetrieveProperties:
		return anonymousSpecs(body.SpecSet)
	case *types.RetrievePropertiesEx:
		return anonymousSpecs(body.SpecSet)
	}
	if name == "Fetch" { // the simulator's own type for reading one property; This is the object that is read
		this, ok := reflect.ValueOf(method.Body).Elem().FieldByName("This").Interface().(types.ManagedObjectReference)
		return ok && anonymousObject(this)
	}
	return false
}

func anonymousSpecs(specs []types.PropertyFilterSpec) bool {
	for _, spec := range specs {
		for _, object := range spec.ObjectSet {
			if !anonymousObject(object.Obj) {
				return false
			}
		}
	}
	return true
}

func anonymousObject(object types.ManagedObjectReference) bool {
	return object.Type == "ServiceInstance" || object.Type == "SessionManager"
}
