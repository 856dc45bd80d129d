package dir

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// TestFull fills a file system of 1 MiB: writing fails with ErrFull, nothing
// half-written remains, and it works again once there is space.
func TestFull(t *testing.T) {
	path := t.TempDir()
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, "size=1m"); err != nil {
		t.Skipf("no file system to fill: mounting a tmpfs: %v", err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(path, 0); err != nil {
			t.Error(err)
		}
	})
	s := openT(t, path)
	ctx := t.Context()
	half := strings.Repeat("h", 600<<10)
	put(t, s, "d/old", half)
	put(t, s, "d/log", "log")
	_, err1 := s.Put(ctx, "d/old", strings.NewReader(half+"new"))
	_, err2 := s.Create(ctx, "x/y/z", strings.NewReader(half))
	_, err3 := s.Swap(ctx, "d/new", "", strings.NewReader(half))
	err4 := s.Append(ctx, "d/log", 3, []byte(half))
	err5 := s.Append(ctx, "d/log2", 0, []byte(half))
	for i, err := range []error{err1, err2, err3, err4, err5} {
		if !errors.Is(err, store.ErrFull) || fault.Of(err) != fault.Temporary {
			t.Errorf("%d: got %v (%s), want %v", i, err, fault.Of(err), store.ErrFull)
		}
	}
	l, err := s.List(ctx, "", "", 0)
	if err != nil || len(l) != 2 || l[0].Size != 3 || l[1].Size != 600<<10 {
		t.Errorf("after failures: %v, %v", l, err)
	}
	if got := leftovers(t, path); len(got) != 0 {
		t.Errorf("left in .tmp: %q", got)
	}
	if err := s.Delete(ctx, "d/old"); err != nil {
		t.Fatal(err)
	}
	if err := s.Append(ctx, "d/log", 3, []byte(half)); err != nil {
		t.Error(err)
	}
	b, _, err := store.ReadAll(ctx, s, "d/log")
	if err != nil || !bytes.Equal(b, []byte("log"+half)) {
		t.Errorf("the log has %d bytes, %v", len(b), err)
	}
}

func TestDenied(t *testing.T) {
	if os.Geteuid() == 0 {
		t.Skip("root is never denied; TestKinds covers the kind")
	}
	path := t.TempDir()
	s := openT(t, path)
	put(t, s, "d/k", "v")
	if err := os.Chmod(filepath.Join(path, "d"), 0); err != nil {
		t.Fatal(err)
	}
	defer os.Chmod(filepath.Join(path, "d"), 0o700)
	if _, err := s.Stat(t.Context(), "d/k"); fault.Of(err) != fault.Denied {
		t.Errorf("got %v (%s), want denied", err, fault.Of(err))
	}
}

func TestKinds(t *testing.T) {
	tests := []struct {
		err  error
		kind fault.Kind
		is   error
	}{
		{unix.EACCES, fault.Denied, fs.ErrPermission},
		{unix.EPERM, fault.Denied, fs.ErrPermission},
		{unix.ENOSPC, fault.Temporary, store.ErrFull},
		{unix.EDQUOT, fault.Temporary, store.ErrFull},
		{unix.EROFS, fault.Config, unix.EROFS},
		{unix.EIO, fault.Temporary, unix.EIO},
		{unix.EMFILE, fault.Temporary, unix.EMFILE},
	}
	for _, tt := range tests {
		err := failed("put", "k", &fs.PathError{Op: "write", Path: "x", Err: tt.err})
		if fault.Of(err) != tt.kind || !errors.Is(err, tt.is) {
			t.Errorf("%v: got %v (%s), want %s", tt.err, err, fault.Of(err), tt.kind)
		}
	}
	source := fault.Errorf(fault.Verdict, "the source is to blame: %w", unix.ENOSPC)
	_, err := openT(t, t.TempDir()).Put(t.Context(), "k", failing{source})
	if fault.Of(err) != fault.Verdict || errors.Is(err, store.ErrFull) {
		t.Errorf("the source's own error became %v (%s)", err, fault.Of(err))
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
