//go:build !(ceph && cgo)

package rados

import (
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// Available tells whether this program was built with librados.
const Available = false

// Open refuses: this program was built without librados.
func Open(address string) (store.Store, error) {
	if _, err := ParseAddress(address); err != nil {
		return nil, err
	}
	return nil, fault.Errorf(fault.Config, "store %q: there is no program with Ceph beside this one: install librados-dev and a C compiler and run make again", address)
}
