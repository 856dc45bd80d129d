package image

import (
	"bytes"
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/workspace"
	"github.com/distci/distci/test/lab"
	"github.com/distci/distci/test/need"
)

// program puts a shell script on a PATH that has nothing else but the usual.
func program(t *testing.T, dir, name, script string) {
	t.Helper()
	if err := os.WriteFile(filepath.Join(dir, name), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
}

func onlyPath(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	t.Setenv("PATH", dir)
	for _, name := range []string{"sh", "cat", "mkdir", "sleep", "tar"} {
		if path, err := exec.LookPath("/bin/" + name); err == nil {
			if err := os.Symlink(path, filepath.Join(dir, name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	return dir
}

func TestBootstrapCheck(t *testing.T) {
	for _, b := range []Bootstrap{
		{}, {Suite: "--help"}, {Suite: "a b"}, {Suite: "../x"},
		{Suite: "s", Include: []string{"gcc", "--x"}}, {Suite: "s", Include: []string{""}}, {Suite: "s", Include: []string{"a,b"}},
		{Suite: "s", Mirror: "deb http://x y main"}, {Suite: "s", Mirror: "--x"}, {Suite: "s", Mirror: "ftp://x"}, {Suite: "s", Mirror: "http:"},
	} {
		if err := b.Check(); fault.Of(err) != fault.Usage {
			t.Errorf("%+v: %v", b, err)
		}
	}
	good := Bootstrap{Suite: "bookworm", Include: []string{"g++-12", "libc6:amd64"}, Mirror: "http://user:word@h/debian"}
	if err := good.Check(); err != nil {
		t.Error(err)
	}
	if s := good.String(); strings.Contains(s, "word@") {
		t.Errorf("tells the password: %s", s)
	}
}

func build(t *testing.T, ctx context.Context, s *Store) (*Info, string, error) {
	t.Helper()
	var out bytes.Buffer
	info, err := s.Import(ctx, "a", &Bootstrap{Suite: "bookworm", Include: []string{"gcc", "make"}, Mirror: "http://h/d", Output: &out}, func(string) {})
	return info, out.String(), err
}

// TestBootstrap is about the programs' being called, and failing.
func TestBootstrap(t *testing.T) {
	s := newStore(t)
	want := put(t, s, "want", system(t, "1")).Digest
	dir := onlyPath(t)
	file := filepath.Join(t.TempDir(), "system.tar")
	if err := os.WriteFile(file, system(t, "1"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, _, err := build(t, t.Context(), s); fault.Of(err) != fault.Config || !strings.Contains(err.Error(), "apt-get install mmdebstrap") {
		t.Errorf("without any: %s: %v", fault.Of(err), err)
	}

	t.Run("debootstrap", func(t *testing.T) {
		// It makes a folder, and leaves what apt has fetched.
		program(t, dir, "debootstrap", `echo "$@"; mkdir -p "$4/var/cache/apt/archives/partial" && tar -C "$4" -xpf `+file+` &&
			echo x >"$4/var/cache/apt/archives/x.deb"`)
		info, out, err := build(t, t.Context(), s)
		if os.Geteuid() != 0 {
			if fault.Of(err) != fault.Config || !strings.Contains(err.Error(), "root only") {
				t.Errorf("%s: %v", fault.Of(err), err)
			}
			return
		}
		if err != nil {
			t.Fatalf("%v\n%s", err, out)
		}
		if !strings.HasPrefix(out, "--variant=minbase --include=gcc,make bookworm ") || !strings.HasSuffix(out, "/made http://h/d\n") {
			t.Errorf("called with %q", out)
		}
		root := filepath.Join(s.tree(info.Digest), "rootfs")
		if _, err := os.Stat(filepath.Join(root, "var/cache/apt/archives/partial")); err != nil {
			t.Error(err)
		}
		if _, err := os.Stat(filepath.Join(root, "var/cache/apt/archives/x.deb")); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("what was fetched is there: %v", err)
		}
		program(t, dir, "debootstrap", `mkdir "$4"; exit 3`)
		if _, _, err := build(t, t.Context(), s); fault.Of(err) != fault.Unavailable || !strings.Contains(err.Error(), "exit status 3") {
			t.Errorf("%s: %v", fault.Of(err), err)
		}
	})

	t.Run("mmdebstrap", func(t *testing.T) {
		program(t, dir, "mmdebstrap", `echo "$@" >&2; cat `+file)
		info, out, err := build(t, t.Context(), s)
		if err != nil || info.Digest != want || info.Source != "bookworm with gcc, make from http://h/d" {
			t.Errorf("%+v, %v", info, err)
		}
		if out != "--variant=minbase --include=gcc,make --format=tar bookworm - http://h/d\n" {
			t.Errorf("called with %q", out)
		}
		before := state(t, s)
		for script, want := range map[string]struct {
			text string
			kind fault.Kind
		}{
			"cat " + file + "; exit 3":       {"mmdebstrap: exit status 3", fault.Unavailable}, // the archive is whole, but not to be trusted
			"exit 3":                         {"mmdebstrap: exit status 3", fault.Unavailable},
			"echo hello world; exit 4":       {"mmdebstrap: exit status 4", fault.BadTicket},
			"while :; do echo rubbish; done": {workspace.ErrArchive.Error(), fault.BadTicket}, // it is ended
		} {
			program(t, dir, "mmdebstrap", script)
			if _, _, err := build(t, t.Context(), s); fault.Of(err) != want.kind || !strings.Contains(err.Error(), want.text) {
				t.Errorf("%s: %s: %v", script, fault.Of(err), err)
			}
			expect(t, s, before)
		}
		ctx, cancel := context.WithCancel(t.Context())
		started := filepath.Join(t.TempDir(), "started")
		program(t, dir, "mmdebstrap", "echo >"+started+"; exec sleep 1000")
		go func() {
			defer cancel()
			lab.Until(t, "the recipe has started", func() bool { _, err := os.Stat(started); return err == nil })
		}()
		if _, _, err := build(t, ctx, s); fault.Of(err) != fault.Interrupted {
			t.Errorf("%s: %v", fault.Of(err), err)
		}
		expect(t, s, before)
	})
}

// TestRealBootstrap fetches packages, which takes a network and half a minute:
// DISTCI_REQUIRE must have the word "bootstrap".
func TestRealBootstrap(t *testing.T) {
	if !need.Required("bootstrap") {
		t.Skip("DISTCI_REQUIRE does not name bootstrap")
	}
	s := newStore(t)
	for _, name := range []string{"mmdebstrap", "debootstrap"} {
		t.Run(name, func(t *testing.T) {
			if name == "debootstrap" { // is used where the other is not there
				usual := os.Getenv("PATH")
				dir := t.TempDir()
				for _, place := range filepath.SplitList(usual) {
					entries, _ := os.ReadDir(place)
					for _, e := range entries {
						if e.Name() != "mmdebstrap" {
							_ = os.Symlink(filepath.Join(place, e.Name()), filepath.Join(dir, e.Name()))
						}
					}
				}
				t.Setenv("PATH", dir)
			}
			var out bytes.Buffer
			info, err := s.Import(t.Context(), name, &Bootstrap{Suite: "bookworm", Output: &out}, func(n string) { t.Log(n) })
			if err != nil {
				t.Fatalf("%v\n%s", err, &out)
			}
			t.Logf("%d files, %d MB", info.Files, info.Size/1e6)
			root := filepath.Join(s.tree(info.Digest), "rootfs")
			if to, err := os.Readlink(filepath.Join(root, "bin")); err != nil || to != "usr/bin" {
				t.Errorf("bin leads to %q, %v", to, err)
			}
			if os.Geteuid() == 0 {
				if out, err := exec.Command("chroot", root, "/bin/cat", "/etc/debian_version").CombinedOutput(); err != nil || !strings.HasPrefix(string(out), "12.") {
					t.Errorf("%s, %v", out, err)
				}
			}
			for _, place := range []string{"var/lib/apt/lists", "var/cache/apt"} {
				filepath.WalkDir(filepath.Join(root, place), func(path string, d os.DirEntry, err error) error {
					if err == nil && d.Type().IsRegular() && d.Name() != "lock" {
						t.Errorf("%s is of no use", path)
					}
					return nil
				})
			}
			if err := s.Verify(t.Context(), name); err != nil {
				t.Error(err)
			}
		})
	}
}
