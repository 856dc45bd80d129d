package lxc

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"testing"

	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/sandbox/sandboxtest"
	"github.com/distci/distci/test/rootfs"
)

// kitVar holds what containers are made of, for tests and for the workers that
// they start.
const kitVar = "LXC_TEST_OPTIONS"

func TestMain(m *testing.M) {
	if _, child := os.LookupEnv(kitVar); child {
		sandboxtest.Main(m, open)
	}
	os.Exit(withKit(m))
}

// withKit builds the programs and a root file system for all tests.
func withKit(m *testing.M) int {
	if rootfs.Missing() != "" {
		return m.Run()
	}
	dir, err := os.MkdirTemp("", "distci-lxc-")
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	kit, err := rootfs.Make(dir)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	b, err := json.Marshal(Options{Program: kit.Program, Init: kit.Init, State: dir + "/state", Root: kit.Root})
	if err != nil {
		panic(err)
	}
	os.Setenv(kitVar, string(b))
	return m.Run()
}

func options() (o Options, err error) {
	text, ok := os.LookupEnv(kitVar)
	if !ok {
		return o, errors.New("there is no kit")
	}
	return o, json.Unmarshal([]byte(text), &o)
}

func open() (sandbox.Sandbox, error) {
	o, err := options()
	if err != nil {
		return nil, err
	}
	return New(o)
}

func TestSandbox(t *testing.T) {
	rootfs.Need(t)
	sandboxtest.Run(t, open)
}

// BenchmarkRun runs a program that does nothing.
func BenchmarkRun(b *testing.B) {
	rootfs.Need(b)
	s, err := open()
	if err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		if r, err := s.Run(b.Context(), sandbox.Spec{Args: []string{"/bin/true"}, Dir: "/"}); err != nil || r.Status != 0 {
			b.Fatal(r, err)
		}
	}
}

// TestClosedFolder has distci-init below a folder that only root can pass
// through, as in a checkout in root's home.
func TestClosedFolder(t *testing.T) {
	rootfs.Need(t)
	o, err := options()
	if err != nil {
		t.Fatal(err)
	}
	closed := t.TempDir()
	if err := os.Chmod(closed, 0o700); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(o.Init)
	if err != nil {
		t.Fatal(err)
	}
	o.Init = closed + "/distci-init"
	if err := os.WriteFile(o.Init, b, 0o755); err != nil {
		t.Fatal(err)
	}
	s, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	if r, err := s.Run(t.Context(), sandbox.Spec{Args: []string{"/bin/true"}, Dir: "/"}); err != nil || r.Status != 0 {
		t.Error(r, err)
	}
}
