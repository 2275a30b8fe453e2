package main

import (
	"context"
	"net/url"
	"os"
	"path/filepath"

	"github.com/vmware/govmomi"
	"github.com/vmware/govmomi/find"
)

// firstMachine is one that the simulator makes by itself, in a cluster.
const firstMachine = "/DC0/vm/DC0_C0_RP0_VM0"

// makeTemplate turns a machine that is there already into a template, as an administrator does.
func makeTemplate(server *url.URL, name string) error {
	ctx := context.Background()
	client, err := govmomi.NewClient(ctx, server, true)
	if err != nil {
		return err
	}
	defer func() { _ = client.Logout(ctx) }()
	vm, err := find.NewFinder(client.Client).VirtualMachine(ctx, firstMachine)
	if err != nil {
		return err
	}
	task, err := vm.Rename(ctx, name)
	if err != nil {
		return err
	}
	if err := task.Wait(ctx); err != nil {
		return err
	}
	return vm.MarkAsTemplate(ctx)
}

// writeCredentials writes what a Provider needs in order to log in here, one file per key.
func writeCredentials(o options, certificate string) error {
	for name, text := range map[string]string{"username": o.user, "password": o.password, "ca.crt": certificate} {
		if err := os.WriteFile(filepath.Join(o.credentials, name), []byte(text), 0o600); err != nil {
			return err
		}
	}
	return nil
}
