package workspace

import (
	"bytes"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// snapshot describes a tree by other means than the package's own: a line for
// every path, with all that must survive.
func snapshot(t testing.TB, dir string) map[string]string {
	t.Helper()
	snap := map[string]string{}
	first := map[uint64]string{}
	err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		fi, err := os.Lstat(path)
		if err != nil {
			return err
		}
		rel, _ := filepath.Rel(dir, path)
		st := fi.Sys().(*syscall.Stat_t)
		line := fmt.Sprintf("%o %d", st.Mode, fi.ModTime().UnixNano())
		if !fi.IsDir() {
			if _, ok := first[st.Ino]; !ok {
				first[st.Ino] = rel
			}
			line += fmt.Sprintf(" same as %q", first[st.Ino])
		}
		switch {
		case fi.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" -> %q", target)
		case fi.Mode().IsRegular():
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			line += fmt.Sprintf(" %d bytes %x", len(b), sha256.Sum256(b))
		}
		if fi.Mode()&fs.ModeSymlink == 0 {
			buf := make([]byte, 4096)
			n, _ := unix.Getxattr(path, "user.distci", buf)
			line += fmt.Sprintf(" %q", buf[:max(n, 0)])
		}
		snap[rel] = line
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return snap
}

// difference reports how two snapshots differ.
func difference(want, got map[string]string) string {
	var b strings.Builder
	for _, path := range slices.Sorted(maps.Keys(want)) {
		if g, ok := got[path]; !ok {
			fmt.Fprintf(&b, "%q is missing\n", path)
		} else if g != want[path] {
			fmt.Fprintf(&b, "%q:\n\twant %s\n\tgot  %s\n", path, want[path], g)
		}
	}
	for _, path := range slices.Sorted(maps.Keys(got)) {
		if _, ok := want[path]; !ok {
			fmt.Fprintf(&b, "%q should not be there\n", path)
		}
	}
	return b.String()
}

// forest makes and changes random trees.
type forest struct {
	t   testing.TB
	rnd *rand.Rand
	dir string
	nth int
}

// oddNames are what a program should never have let through.
var oddNames = []string{
	"a", "b", "c.o", "dir", "A", "-rf", " ", "a b", "new\nline", "tab\t", `quo"te'`, `back\slash`, "\xff\xfe", "é", "日本", "*", "$HOME", "a-b", "a.b", "a!",
	".hidden", ".wh", ".whx", "..a", "...", "wh.", "\x01", "\x7f", "~", "%2f", strings.Repeat("n", 255), strings.Repeat("é", 120),
}

var oddTargets = []string{"a", "../a", "/etc/passwd", "/", ".", "..", "../../../../../../etc", "nowhere", "a//b/./c", "\xff", "new\nline", strings.Repeat("x/", 1000), ".wh.a", " "}

func (f *forest) must(err error) {
	f.t.Helper()
	if err != nil {
		f.t.Fatal(err)
	}
}

func pick[T any](r *rand.Rand, s []T) T { return s[r.IntN(len(s))] }

// paths lists what there is; directories only if dirs.
func (f *forest) paths(dirs bool) (paths []string) {
	f.must(filepath.WalkDir(f.dir, func(path string, d fs.DirEntry, err error) error {
		if err == nil && (d.IsDir() || !dirs) && path != f.dir {
			paths = append(paths, path)
		}
		return err
	}))
	if dirs {
		paths = append(paths, f.dir)
	}
	return paths
}

// fresh returns a path at which nothing is.
func (f *forest) fresh() string {
	for {
		dir := pick(f.rnd, f.paths(true))
		name := pick(f.rnd, oddNames)
		if f.rnd.IntN(3) == 0 {
			f.nth++
			name = fmt.Sprintf("f%d", f.nth)
		}
		path := filepath.Join(dir, name)
		if _, err := os.Lstat(path); os.IsNotExist(err) && len(path)-len(f.dir) < 3000 {
			return path
		}
	}
}

func (f *forest) contents() []byte {
	size := pick(f.rnd, []int{0, 1, 5, 511, 512, 513, 4095, 4096, 4097, 70_000, 300_000})
	b := make([]byte, size)
	for i := range b {
		if i/4096%3 != 1 { // a block of zeros among the others
			b[i] = byte(f.rnd.Uint32())
		}
	}
	return b
}

// change does one random thing to the tree.
func (f *forest) change() {
	all := f.paths(false)
	n := f.rnd.IntN(18)
	if len(all) == 0 {
		n %= 4
	}
	switch n {
	case 0, 1:
		f.must(os.WriteFile(f.fresh(), f.contents(), 0o644))
	case 2:
		f.must(os.Mkdir(f.fresh(), 0o755))
	case 3:
		f.must(os.Symlink(pick(f.rnd, oddTargets), f.fresh()))
	case 4: // another name, perhaps of a symbolic link
		if p := pick(f.rnd, all); !isDirectory(p) {
			f.must(unix.Linkat(unix.AT_FDCWD, p, unix.AT_FDCWD, f.fresh(), 0))
		}
	case 5:
		f.must(os.RemoveAll(pick(f.rnd, all)))
	case 6: // in place, with the same size and time: only ctime tells
		f.inPlace(pick(f.rnd, all))
	case 7:
		if p := pick(f.rnd, all); isRegular(p) {
			f.must(os.WriteFile(p, f.contents(), 0))
		}
	case 8:
		if p := pick(f.rnd, all); isRegular(p) {
			f.must(unix.Chmod(p, pick(f.rnd, []uint32{0o600, 0o644, 0o755, 0o4755, 0o2755, 0o1644, 0o6777, 0o400})))
		} else if isDirectory(p) {
			f.must(unix.Chmod(p, pick(f.rnd, []uint32{0o700, 0o755, 0o1777, 0o2775, 0o777})))
		}
	case 9: // also before 1970 and beyond what 32 bits hold
		sec := pick(f.rnd, []int64{-1_000_000, -1, 0, 1, 1_234_567_890, 5_000_000_000})
		ts := unix.Timespec{Sec: sec, Nsec: f.rnd.Int64N(1e9)}
		f.must(setTime(unix.AT_FDCWD, pick(f.rnd, append(all, f.dir)), ts))
	case 10: // one kind replaced by another
		p := pick(f.rnd, all)
		f.must(os.RemoveAll(p))
		switch f.rnd.IntN(3) {
		case 0:
			f.must(os.WriteFile(p, f.contents(), 0o644))
		case 1:
			f.must(os.Mkdir(p, 0o755))
			if len(p)-len(f.dir) < 3000 {
				f.must(os.WriteFile(filepath.Join(p, "in"), nil, 0o644))
			}
		default:
			f.must(os.Symlink(pick(f.rnd, oddTargets), p))
		}
	case 11:
		from, to := pick(f.rnd, all), f.fresh()
		if !strings.HasPrefix(to, from+"/") {
			f.must(os.Rename(from, to))
		}
	case 12: // rename over what is there, as careful programs save files
		a, b := pick(f.rnd, all), pick(f.rnd, all)
		if isRegular(a) && isRegular(b) {
			f.must(os.Rename(a, b))
		}
	case 13:
		if p := pick(f.rnd, all); isRegular(p) || isDirectory(p) {
			f.must(unix.Setxattr(p, "user.distci", []byte{byte(f.rnd.Uint32()), 0, '=', '\n'}, 0))
		}
	case 14:
		p := pick(f.rnd, all)
		if isRegular(p) || isDirectory(p) {
			_ = unix.Removexattr(p, "user.distci")
		}
	case 15: // a file with large holes
		p := f.fresh()
		f.must(os.WriteFile(p, []byte("begin"), 0o644))
		f.must(os.Truncate(p, 1<<20+int64(f.rnd.IntN(5000))))
	case 16: // removed and made again: the inode may be the same
		if p := pick(f.rnd, all); isRegular(p) {
			fi, err := os.Lstat(p)
			f.must(err)
			f.must(os.Remove(p))
			f.must(os.WriteFile(p, bytes.Repeat([]byte("z"), int(fi.Size())), fi.Mode().Perm()))
			f.must(os.Chtimes(p, time.Time{}, fi.ModTime()))
		}
	case 17: // nothing, but the directory's time
		p := filepath.Join(pick(f.rnd, f.paths(true)), "temporary file")
		f.must(os.WriteFile(p, nil, 0o644))
		f.must(os.Remove(p))
	}
}

func (f *forest) inPlace(p string) {
	fi, err := os.Lstat(p)
	f.must(err)
	if !fi.Mode().IsRegular() || fi.Size() == 0 {
		return
	}
	file, err := os.OpenFile(p, os.O_RDWR, 0)
	if os.IsPermission(err) {
		return
	}
	f.must(err)
	_, err = file.WriteAt([]byte{byte(f.rnd.Uint32())}, f.rnd.Int64N(fi.Size()))
	f.must(err)
	f.must(file.Close())
	f.must(os.Chtimes(p, time.Time{}, fi.ModTime()))
}

func isRegular(p string) bool {
	fi, err := os.Lstat(p)
	return err == nil && fi.Mode().IsRegular()
}

func isDirectory(p string) bool {
	fi, err := os.Lstat(p)
	return err == nil && fi.IsDir()
}
