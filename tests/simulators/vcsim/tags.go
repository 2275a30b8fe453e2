package main

import (
	"encoding/json"
	"net/http"
	"slices"
	"strings"

	"github.com/vmware/govmomi/vim25/types"
)

const tagging = "/rest/com/vmware/cis/tagging/"

type taggedObject struct {
	Type string `json:"type"`
	ID   string `json:"id"`
}

// restCall does what the simulator does wrongly itself, and leaves it the rest.
func (d *Double) restCall(call restRequest) restAnswer {
	if rest, ok := strings.CutPrefix(call.path, tagging+"tag-association"); ok {
		return d.associate(call, strings.TrimPrefix(rest, "/id:"))
	}
	if strings.HasPrefix(call.path, "/rest/vcenter/storage/policies") || strings.HasPrefix(call.path, "/rest/vcenter/vm/") {
		return d.storagePolicies(call)
	}
	if strings.HasPrefix(call.path, "/rest/vcenter/vm-template/library-items") {
		return d.libraryTemplate(call)
	}
	if strings.HasPrefix(call.path, "/rest/com/vmware/vcenter/ovf/library-item/") && call.query.Get("~action") == "deploy" {
		return d.deployOVF(call)
	}
	return d.askInner(call, "")
}

// associate keeps to cardinality and associable types, and knows no objects that are gone. Source:
// com.vmware.cis.tagging.TagAssociation: attach "invalid_argument: if the argument does not match the cardinality
// and associability criteria of the tag"; the batches tell so for each.
func (d *Double) associate(call restRequest, tag string) restAnswer {
	var body struct {
		Object  taggedObject   `json:"object_id"`
		Tags    []string       `json:"tag_ids"`
		Objects []taggedObject `json:"object_ids"`
	}
	if len(call.body) > 0 {
		if err := json.Unmarshal(call.body, &body); err != nil {
			return failed(http.StatusBadRequest, "invalid_request")
		}
	}
	switch call.query.Get("~action") {
	case "attach":
		if kind := d.refusesTag(call, tag, body.Object); kind != "" {
			return failed(statusOf(kind), kind)
		}
	case "attach-multiple-tags-to-object":
		return batch(body.Tags, func(tag string) restAnswer { return d.attach(call, tag, body.Object) })
	case "detach-multiple-tags-from-object":
		return batch(body.Tags, func(tag string) restAnswer { return d.move(call, "detach", tag, body.Object) })
	case "attach-tag-to-multiple-objects":
		return batch(body.Objects, func(object taggedObject) restAnswer { return d.attach(call, tag, object) })
	case "detach-tag-from-multiple-objects":
		return batch(body.Objects, func(object taggedObject) restAnswer { return d.move(call, "detach", tag, object) })
	case "list-attached-objects":
		answer := d.askInner(call, "")
		var objects []taggedObject
		if answer.kind == "" && json.Unmarshal(answer.value, &objects) == nil {
			objects = slices.DeleteFunc(objects, func(object taggedObject) bool { return !d.exists(object) })
			answer.value, _ = json.Marshal(append([]taggedObject{}, objects...)) // strings are always JSON
		}
		return answer
	}
	return d.askInner(call, "")
}

func statusOf(kind string) int {
	switch kind {
	case "not_found":
		return http.StatusNotFound
	case "unauthorized":
		return http.StatusForbidden
	}
	return http.StatusBadRequest
}

func (d *Double) exists(object taggedObject) bool {
	return d.registry.Get(types.ManagedObjectReference{Type: object.Type, Value: object.ID}) != nil
}

func (d *Double) attach(call restRequest, tag string, object taggedObject) restAnswer {
	if kind := d.refusesTag(call, tag, object); kind != "" {
		return failed(statusOf(kind), kind)
	}
	return d.move(call, "attach", tag, object)
}

func (d *Double) move(call restRequest, action, tag string, object taggedObject) restAnswer {
	body := map[string]any{"object_id": object}
	return d.ask(call, http.MethodPost, tagging+"tag-association/id:"+tag, action, body)
}

// batch answers as one that did everything it could.
func batch[T any](items []T, do func(T) restAnswer) restAnswer {
	messages := []map[string]any{}
	for _, item := range items {
		if kind := do(item).kind; kind != "" {
			messages = append(messages, map[string]any{
				"id": "cis.tagging." + kind + ".error", "default_message": strings.ReplaceAll(kind, "_", " "), "args": []string{},
			})
		}
	}
	value, _ := json.Marshal(map[string]any{"success": len(messages) == 0, "error_messages": messages}) // plain maps
	return restAnswer{status: http.StatusOK, value: value}
}

// category is the one of a tag; "" if there is no such tag.
func (d *Double) category(call restRequest, tag string) (id string, single bool, associable []string) {
	var told struct {
		Category string `json:"category_id"`
	}
	if read(d.ask(call, http.MethodGet, tagging+"tag/id:"+tag, "", nil), &told) {
		var category struct {
			Cardinality string   `json:"cardinality"`
			Types       []string `json:"associable_types"`
		}
		read(d.ask(call, http.MethodGet, tagging+"category/id:"+told.Category, "", nil), &category)
		return told.Category, category.Cardinality == "SINGLE", category.Types
	}
	return "", false, nil
}

func read(answer restAnswer, into any) bool {
	return answer.kind == "" && json.Unmarshal(answer.value, into) == nil
}

// refusesTag is the kind of error that attaching gives, "" for none.
func (d *Double) refusesTag(call restRequest, tag string, object taggedObject) string {
	category, single, associable := d.category(call, tag)
	switch {
	case category == "":
		return "not_found"
	case !d.exists(object):
		return "unauthorized" // nobody has rights on what is not there
	case len(associable) > 0 && !slices.Contains(associable, object.Type):
		return "invalid_argument"
	case !single:
		return ""
	}
	var attached []string
	body := map[string]any{"object_id": object}
	read(d.ask(call, http.MethodPost, tagging+"tag-association", "list-attached-tags", body), &attached)
	for _, other := range attached {
		if own, _, _ := d.category(call, other); other != tag && own == category {
			return "invalid_argument"
		}
	}
	return ""
}
