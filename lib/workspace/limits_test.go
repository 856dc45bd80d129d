package workspace

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
)

// TestRefused: what a layer cannot hold is the step's failure, and the message
// names it.
func TestRefused(t *testing.T) {
	for name, tt := range map[string]struct {
		make func(path string) error
		want string
	}{
		"pipe":       {func(p string) error { return unix.Mkfifo(p, 0o644) }, "pipe"},
		"socket":     {listen, "socket"},
		"device":     {func(p string) error { return unix.Mknod(p, unix.S_IFCHR|0o600, 0x0103) }, "device"},
		".wh.name":   {func(p string) error { return os.WriteFile(p, nil, 0o644) }, ".wh."},
		".wh..":      {func(p string) error { return os.Mkdir(p+"d", 0o755) }, ".wh."},
		"ordinary":   {func(p string) error { return os.WriteFile(p, nil, 0o644) }, ""},
		"wh.in-name": {func(p string) error { return os.WriteFile(p, nil, 0o644) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(filepath.Join(dir, "sub"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := tt.make(filepath.Join(dir, "sub", name)); errors.Is(err, os.ErrPermission) {
				t.Skip(err)
			} else if err != nil {
				t.Fatal(err)
			}
			l := newLayers(t, newStore(t))
			_, _, err := l.Save(context.Background(), dir, nil)
			if tt.want == "" {
				if err != nil {
					t.Error(err)
				}
				return
			}
			if fault.Of(err) != fault.Verdict || !strings.Contains(err.Error(), `"sub/`+name) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%s: %v", fault.Of(err), err)
			}
		})
	}
}

// listen leaves a socket behind, as a daemon does that was killed.
func listen(path string) error {
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return err
	}
	l.SetUnlinkOnClose(false)
	return l.Close()
}

// disturbing changes a file when the layer's first bytes are being written:
// while Diff is at it.
type disturbing struct {
	io.Writer
	disturb func()
}

func (d *disturbing) Write(p []byte) (int, error) {
	if d.disturb != nil {
		d.disturb()
		d.disturb = nil
	}
	return d.Writer.Write(p)
}

// TestChangedWhileRead: a tree that changes under Diff gives a clear error of
// the kind that is tried again, and no layer.
func TestChangedWhileRead(t *testing.T) {
	noise := make([]byte, 4<<20)
	for i := range noise {
		noise[i] = byte(i * i >> 7)
	}
	for name, change := range map[string]func(path string) error{
		"appended to": func(p string) error {
			f, err := os.OpenFile(p, os.O_APPEND|os.O_WRONLY, 0)
			if err != nil {
				return err
			}
			defer f.Close()
			_, err = f.WriteString("more")
			return err
		},
		"truncated":              func(p string) error { return os.Truncate(p, 10) },
		"removed":                os.Remove,
		"replaced by a link":     func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/etc/passwd", p)) },
		"replaced by a pipe":     func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) },
		"its directory replaced": func(p string) error { return swap(filepath.Dir(p), filepath.Join(t.TempDir(), "copy")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			for _, sub := range []string{"a", "z"} {
				if err := os.Mkdir(filepath.Join(dir, sub), 0o755); err != nil {
					t.Fatal(err)
				}
				for _, file := range []string{"1", "2", "3"} {
					if err := os.WriteFile(filepath.Join(dir, sub, file), noise, 0o644); err != nil {
						t.Fatal(err)
					}
				}
			}
			w := &disturbing{io.Discard, func() {
				if err := change(filepath.Join(dir, "z", "3")); err != nil {
					t.Error(err)
				}
			}}
			layer, _, err := Diff(context.Background(), dir, nil, w)
			if fault.Of(err) != fault.Temporary || !errors.Is(err, errChanged) || !strings.Contains(err.Error(), `"z`) {
				t.Errorf("%s: %v", fault.Of(err), err)
			}
			if !layer.Empty() {
				t.Error("a layer all the same")
			}
		})
	}
}

// swap puts a link to other, a new folder with the same names, in a directory's
// place.
func swap(dir, other string) error {
	return errors.Join(os.CopyFS(other, os.DirFS(dir)), os.RemoveAll(dir), os.Symlink(other, dir))
}

// asNobody runs the test once more without root's privileges, and tells
// whether that is what is running now.
func asNobody(t *testing.T) bool {
	t.Helper()
	if os.Getuid() != 0 {
		return true
	}
	folder, err := os.MkdirTemp("", "nobody") // t.TempDir's parents may be closed to others
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { Remove(folder) })
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	program, err := os.ReadFile(exe)
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.WriteFile(filepath.Join(folder, "test"), program, 0o755), os.Chmod(folder, 0o777)); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(filepath.Join(folder, "test"), "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Dir, cmd.Env = folder, append(os.Environ(), "TMPDIR="+folder)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if errors.Is(err, os.ErrPermission) {
		t.Skip(err)
	}
	if err != nil || !bytes.Contains(out, []byte("--- PASS")) {
		t.Fatalf("without root's privileges: %v\n%s", err, out)
	}
	return false
}

// TestWithoutPrivileges: directories without write permission, as caches of
// modules have them, are filled, changed and removed by their owner.
func TestWithoutPrivileges(t *testing.T) {
	if !asNobody(t) {
		return
	}
	ctx := context.Background()
	top := t.TempDir()
	dir := filepath.Join(top, "w")
	must := func(errs ...error) {
		t.Helper()
		if err := errors.Join(errs...); err != nil {
			t.Fatal(err)
		}
	}
	at := func(p string) string { return filepath.Join(dir, p) }
	must(os.MkdirAll(at("mod/pkg/sub"), 0o755), os.WriteFile(at("mod/pkg/go.mod"), []byte("module"), 0o444),
		os.WriteFile(at("mod/pkg/sub/x.go"), []byte("package"), 0o444), os.Symlink("x.go", at("mod/pkg/sub/link")),
		os.Chmod(at("mod/pkg/sub"), 0o555), os.Chmod(at("mod/pkg"), 0o555), os.Chmod(at("mod"), 0o511), os.Chmod(dir, 0o555))
	s := newStore(t)
	l := newLayers(t, s)
	if os.Chmod(at("mod"), 0o555) != nil {
		t.Fatal("chmod")
	}
	first, index, err := l.Save(ctx, dir, nil)
	must(err)
	copied := filepath.Join(top, "copy")
	_, err = l.Restore(ctx, copied, []string{first.Digest})
	must(err)
	if d := difference(snapshot(t, dir), snapshot(t, copied)); d != "" {
		t.Error(d)
	}

	// A second layer changes and removes things in directories without w.
	must(os.Chmod(at("mod/pkg"), 0o755), os.Chmod(at("mod/pkg/sub"), 0o755), os.Remove(at("mod/pkg/go.mod")), os.WriteFile(at("mod/pkg/sub/new"), nil, 0o400),
		os.Chmod(at("mod/pkg/sub"), 0o555), os.Chmod(at("mod/pkg"), 0o555))
	second, _, err := l.Save(ctx, dir, index)
	must(err)
	must(Remove(copied))
	_, err = l.Restore(ctx, copied, []string{first.Digest, second.Digest})
	must(err)
	if d := difference(snapshot(t, dir), snapshot(t, copied)); d != "" {
		t.Error(d)
	}

	// A layer on top of directories that their owner cannot even enter.
	must(os.Chmod(filepath.Join(copied, "mod/pkg/sub"), 0), os.Chmod(filepath.Join(copied, "mod/pkg"), 0o111), os.Chmod(filepath.Join(copied, "mod"), 0))
	must(Apply(ctx, copied, bytes.NewReader(tarOf(t, []ent{{name: "mod/pkg/sub/.wh.x.go"}})), Limits{}))
	fi, err := os.Lstat(filepath.Join(copied, "mod"))
	must(err)
	if fi.Mode().Perm() != 0 {
		t.Errorf("mode %v, want it as it was", fi.Mode())
	}
	must(os.Chmod(filepath.Join(copied, "mod"), 0o700), os.Chmod(filepath.Join(copied, "mod/pkg"), 0o700), os.Chmod(filepath.Join(copied, "mod/pkg/sub"), 0o700))
	if _, err := os.Lstat(filepath.Join(copied, "mod/pkg/sub/x.go")); !os.IsNotExist(err) {
		t.Error("the whiteout has done nothing")
	}

	// What cannot be read is the step's failure.
	for path, mode := range map[string]os.FileMode{"mod/pkg/sub/x.go": 0, "mod/pkg": 0, "mod": 0o400} {
		fi, err := os.Lstat(at(path))
		must(err)
		must(os.Chmod(at(path), mode))
		_, _, err = l.Save(ctx, dir, nil)
		if fault.Of(err) != fault.Verdict || !strings.Contains(err.Error(), fmt.Sprintf("%q", path)) || !strings.Contains(err.Error(), "not permitted") {
			t.Errorf("%s: %v", fault.Of(err), err)
		}
		must(os.Chmod(at(path), fi.Mode().Perm()))
	}

	must(os.Chmod(at("mod/pkg/sub"), 0), os.Chmod(at("mod/pkg"), 0o444), os.Chmod(at("mod"), 0))
	must(Remove(dir), Remove(copied), Remove(copied))
	if _, err := os.Lstat(dir); !os.IsNotExist(err) {
		t.Errorf("after Remove: %v", err)
	}
}

// TestRemove: very deep trees go, and links are not followed.
func TestRemove(t *testing.T) {
	work, neighbour := stage(t)
	before := snapshot(t, neighbour)
	fd, err := openRoot(work)
	if err != nil {
		t.Fatal(err)
	}
	for range 3000 { // a path of 12 KiB, which nobody can name
		if err := unix.Mkdirat(fd, "deep", 0o700); err != nil {
			t.Fatal(err)
		}
		if f, err := openat(fd, "file", unix.O_CREAT|unix.O_WRONLY, 0o600); err == nil {
			unix.Close(f)
		}
		next, err := openDir(fd, "deep")
		if err != nil {
			t.Fatal(err)
		}
		unix.Close(fd)
		fd = next
	}
	unix.Close(fd)
	if _, err := Scan(context.Background(), work); fault.Of(err) != fault.Verdict || !strings.Contains(err.Error(), "4096") {
		t.Errorf("Scan: %s: %v", fault.Of(err), err)
	}
	// Depth must not cost descriptors.
	var rlimit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &rlimit); err != nil {
		t.Fatal(err)
	}
	few := rlimit
	few.Cur = 256
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	defer unix.Setrlimit(unix.RLIMIT_NOFILE, &rlimit)
	for _, path := range []string{work, filepath.Join(filepath.Dir(work), "nothing", "at", "all"), work} {
		if err := Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	link := filepath.Join(filepath.Dir(work), "link")
	if err := errors.Join(os.Symlink(neighbour, link), Remove(link)); err != nil {
		t.Fatal(err)
	}
	if d := difference(before, snapshot(t, neighbour)); d != "" {
		t.Error(d)
	}
	for _, path := range []string{"", ".", "..", "/", "a/../.."} {
		if err := Remove(path); err == nil {
			t.Errorf("Remove(%q) has removed something", path)
		}
	}
}

// TestSameChangeSameLayer: a repeated step gives the same layer, wherever and
// whenever it ran.
func TestSameChangeSameLayer(t *testing.T) {
	ctx := context.Background()
	l := newLayers(t, newStore(t))
	var digests []string
	for range 2 {
		dir := filepath.Join(t.TempDir(), "w")
		if err := Apply(ctx, mkdir(t, dir), bytes.NewReader(tarOf(t, []ent{{name: "./"}, {name: "d/"}, {name: "d/f", body: "x"}})), Limits{}); err != nil {
			t.Fatal(err)
		}
		layer, _, err := l.Save(ctx, dir, nil)
		if err != nil {
			t.Fatal(err)
		}
		if layer.Files != 3 || layer.Bytes != 1 || layer.Size == 0 || layer.DiffID == layer.Digest {
			t.Errorf("%+v", layer)
		}
		digests = append(digests, layer.Digest)
	}
	if digests[0] != digests[1] {
		t.Errorf("%q", digests)
	}
}

func mkdir(t testing.TB, dir string) string {
	t.Helper()
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// largeFlag makes TestSparse take a minute.
var largeFlag = flag.Bool("large", false, "test with a file of more than 8 GiB, which old tar formats cannot hold")

// TestSparse: a large file with little in it comes back with its holes.
func TestSparse(t *testing.T) {
	size := int64(200<<20 + 5)
	if *largeFlag {
		size = 9<<30 + 5
	}
	ctx := context.Background()
	dir := mkdir(t, filepath.Join(t.TempDir(), "w"))
	path := filepath.Join(dir, "large")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for _, off := range []int64{0, size/2 + 3, size - 1} {
		if _, err := f.WriteAt([]byte("x"), off); err != nil {
			t.Fatal(err)
		}
	}
	l := newLayers(t, newStore(t))
	layer, _, err := l.Save(ctx, dir, nil)
	if err != nil {
		t.Fatal(err)
	}
	copied := filepath.Join(t.TempDir(), "copy")
	if _, err := l.Restore(ctx, copied, []string{layer.Digest}); err != nil {
		t.Fatal(err)
	}
	var st unix.Stat_t
	if err := unix.Lstat(filepath.Join(copied, "large"), &st); err != nil {
		t.Fatal(err)
	}
	if st.Size != size || st.Blocks*512 > 1<<20 {
		t.Errorf("%d bytes in %d blocks", st.Size, st.Blocks)
	}
	g, err := os.Open(filepath.Join(copied, "large"))
	if err != nil {
		t.Fatal(err)
	}
	defer g.Close()
	for _, off := range []int64{0, 1, size/2 + 2, size/2 + 3, size/2 + 4, size - 1} {
		var a, b [1]byte
		f.ReadAt(a[:], off)
		g.ReadAt(b[:], off)
		if a != b {
			t.Errorf("byte %d: %q, want %q", off, b, a)
		}
	}
}
