//go:build ceph && cgo

package rados

import (
	"fmt"
	"os"
	"sync/atomic"
	"testing"

	"github.com/distci/distci/lib/store"
	"github.com/distci/distci/lib/store/storetest"
	cephtest "github.com/distci/distci/test/ceph"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(killVar); address != "" {
		killChild(address)
		os.Exit(1)
	}
	storetest.Main(m, Open)
}

// stores numbers the namespaces of this process's tests.
var stores atomic.Int64

func namespace() string { return fmt.Sprint("n", stores.Add(1)) }

func TestStore(t *testing.T) {
	c := cephtest.Start(t, cephtest.Options{})
	storetest.Run(t, Open, func(*testing.T) string { return c.Address(namespace()) })
}

// TestStoreSplit is the same with an index that is split all the time.
func TestStoreSplit(t *testing.T) {
	c := cephtest.Start(t, cephtest.Options{})
	open := func(address string) (store.Store, error) {
		s, err := Open(address)
		if err == nil {
			s.(*pool).shardLimit = 8
		}
		return s, err
	}
	storetest.Run(t, open, func(*testing.T) string { return c.Address(namespace()) })
}
