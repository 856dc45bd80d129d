package pack

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/go-git/go-git/v5/plumbing"
)

func git(t testing.TB, dir, stdin string, args ...string) string {
	t.Helper()
	cmd := exec.Command("git", args...)
	cmd.Dir = dir
	cmd.Stdin = strings.NewReader(stdin)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org")
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, err.(*exec.ExitError).Stderr)
	}
	return string(out)
}

// history makes a repository whose packs hold chains of deltas, an empty file
// and one that is hashed while it is inflated.
func history(t testing.TB, commits int) (dir string, ids []string) {
	t.Helper()
	dir = t.TempDir()
	git(t, dir, "", "init", "-q", ".")
	var text strings.Builder
	for i := range commits {
		for j := range 200 {
			fmt.Fprintf(&text, "%d %d %x\n", i, j, i*j*7919)
		}
		os.WriteFile(filepath.Join(dir, "file"), []byte(text.String()), 0o644)
		os.WriteFile(filepath.Join(dir, fmt.Sprint("f", i)), bytes.Repeat([]byte{byte(i)}, i), 0o644)
		git(t, dir, "", "add", "-A")
		git(t, dir, "", "commit", "-q", "-m", fmt.Sprint(i))
	}
	os.WriteFile(filepath.Join(dir, "huge"), bytes.Repeat([]byte("0123456789abcde\n"), (inline+100)/16), 0o644)
	git(t, dir, "", "add", "-A")
	git(t, dir, "", "commit", "-q", "-m", "huge")
	git(t, dir, "", "tag", "-a", "-m", "t", "t")
	for line := range strings.Lines(git(t, dir, "", "cat-file", "--batch-all-objects", "--batch-check=%(objectname)")) {
		ids = append(ids, strings.TrimSpace(line))
	}
	return dir, ids
}

func packOf(t testing.TB, dir string, ids []string, args ...string) []byte {
	t.Helper()
	return []byte(git(t, dir, strings.Join(ids, "\n")+"\n", append([]string{"pack-objects", "-q", "--stdout", "--window=20"}, args...)...))
}

// TestReceive compares the index with git's, for packs with each kind of
// delta, and reads every object back.
func TestReceive(t *testing.T) {
	dir, ids := history(t, 30)
	for _, args := range [][]string{{}, {"--delta-base-offset"}, {"--window=0"}} {
		data := packOf(t, dir, ids, args...)
		out := t.TempDir()
		name, err := Receive(t.Context(), out, iotest.HalfReader(bytes.NewReader(data)))
		if err != nil {
			t.Fatal(err)
		}
		base := filepath.Join(out, "pack-"+name)
		want := filepath.Join(t.TempDir(), "idx")
		git(t, dir, "", "index-pack", "-o", want, base+".pack")
		a, _ := os.ReadFile(base + ".idx")
		b, _ := os.ReadFile(want)
		if !bytes.Equal(a, b) {
			t.Errorf("%v: the index differs from git's", args)
		}
		s, err := Open(out)
		if err != nil {
			t.Fatal(err)
		}
		if s.Len() != 1 {
			t.Errorf("%d packs", s.Len())
		}
		for _, id := range ids {
			typ, content, err := s.Get(plumbing.NewHash(id))
			if err != nil || HashOf(typ, content) != plumbing.NewHash(id) {
				t.Errorf("%s: %v, %v", id, typ, err)
			}
		}
		if _, _, err := s.Get(plumbing.ZeroHash); !errors.Is(err, ErrNotFound) || s.Has(plumbing.ZeroHash) {
			t.Errorf("an object that is not there: %v", err)
		}
		s.Close()
	}
}

// TestJoin joins packs that overlap and lets git check the result.
func TestJoin(t *testing.T) {
	dir, ids := history(t, 30)
	out := filepath.Join(t.TempDir(), "bare")
	git(t, dir, "", "init", "-q", "--bare", out)
	packs := filepath.Join(out, "objects", "pack")
	for _, part := range [][]string{ids[:40], ids[30:80], ids[70:]} {
		if _, err := Receive(t.Context(), packs, bytes.NewReader(packOf(t, dir, part, "--delta-base-offset"))); err != nil {
			t.Fatal(err)
		}
	}
	old, _ := filepath.Glob(filepath.Join(packs, "*"))
	joined, err := Join(t.Context(), packs)
	if err != nil {
		t.Fatal(err)
	}
	for _, f := range old {
		os.Remove(f)
	}
	git(t, out, "", "verify-pack", joined)
	git(t, out, "", "fsck", "--full")
	s, err := Open(packs)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, id := range ids {
		if _, _, err := s.Get(plumbing.NewHash(id)); err != nil {
			t.Error(err)
		}
	}
}

// TestDamagedStream: no pack that is not whole is stored.
func TestDamagedStream(t *testing.T) {
	dir, ids := history(t, 30)
	data := packOf(t, dir, ids[:60], "--delta-base-offset")
	for i := 0; i < len(data); i += max(1, len(data)/60) {
		for what, broken := range map[string][]byte{
			"cut off": data[:i],
			"changed": append(append(bytes.Clone(data[:i]), data[i]^1), data[i+1:]...),
		} {
			out := t.TempDir()
			if _, err := Receive(t.Context(), out, bytes.NewReader(broken)); err == nil {
				t.Errorf("%s at %d: no error", what, i)
			}
			if left, _ := os.ReadDir(out); len(left) > 0 {
				t.Errorf("%s at %d: left %v", what, i, left)
			}
		}
	}
	if _, err := Receive(t.Context(), t.TempDir(), io.MultiReader(bytes.NewReader(data), strings.NewReader("x"))); !errors.Is(err, ErrCorrupt) {
		t.Errorf("with more behind it: %v", err)
	}
}

func FuzzReceive(f *testing.F) {
	dir, ids := history(f, 6)
	f.Add(packOf(f, dir, ids[:20]))
	f.Add(packOf(f, dir, ids[:20], "--delta-base-offset"))
	f.Fuzz(func(t *testing.T, data []byte) {
		Receive(t.Context(), t.TempDir(), bytes.NewReader(data))
	})
}

// TestDeltaClaims: memory is for what a delta makes, not for what it claims.
func TestDeltaClaims(t *testing.T) {
	for _, c := range []struct {
		name  string
		delta []byte
		want  int // bytes; -1: an error
	}{
		{"4 GiB of nothing", []byte("\x04\x80\x80\x80\x80\x10"), -1},
		{"4 GiB of a few bytes", []byte("\x04\x80\x80\x80\x80\x10\x90\x04"), -1},
		{"more than 4 GiB", []byte("\x04\x81\x80\x80\x80\x10"), -1},
		{"the base many times", append([]byte("\x04\x90\x03"), bytes.Repeat([]byte("\x90\x04"), 100)...), 400},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		out, err := applyDelta([]byte("base"), c.delta)
		runtime.ReadMemStats(&after)
		if c.want < 0 && !errors.Is(err, ErrCorrupt) || c.want >= 0 && (err != nil || len(out) != c.want) {
			t.Errorf("%s: %d bytes, %v", c.name, len(out), err)
		}
		if took := after.TotalAlloc - before.TotalAlloc; took > 1<<20 {
			t.Errorf("%s: took %d bytes of memory", c.name, took)
		}
	}
}

func FuzzDelta(f *testing.F) {
	f.Add([]byte("base"), []byte("\x04\x04\x90\x04"))
	f.Add([]byte("0"), []byte("\x01\x86\x99\xc1\xb5\n\xd0U"))
	f.Fuzz(func(t *testing.T, base, delta []byte) {
		if out, err := applyDelta(base, delta); err == nil && len(out) > 1<<24*max(1, len(delta)) {
			t.Error("more than the delta can say")
		}
	})
}
