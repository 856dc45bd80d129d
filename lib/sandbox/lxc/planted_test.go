package lxc

import (
	"crypto/sha256"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/store/dir"
	"github.com/distci/distci/lib/workspace"
)

// fingerprint tells all about a tree that somebody could have changed.
func fingerprint(t *testing.T, root string) string {
	t.Helper()
	sum := sha256.New()
	err := filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			return err
		}
		fmt.Fprintln(sum, path, st.Mode, st.Uid, st.Gid, st.Nlink, st.Size, st.Mtim, st.Ctim)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("%x", sum.Sum(nil))
}

// layersIn opens what a worker stores workspaces with.
func layersIn(t *testing.T) *workspace.Layers {
	t.Helper()
	st, err := dir.Open(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { st.Close() })
	cache, err := workspace.OpenCache(t.TempDir(), 1<<30)
	if err != nil {
		t.Fatal(err)
	}
	return workspace.NewLayers(st, cache, workspace.Limits{})
}

// TestPlanted has a step plant in its workspace what the host meets afterwards:
// when it takes the layer, restores it somewhere else, and cleans up. The host's
// own folder, to which links lead, stays as it is and goes into no layer.
func TestPlanted(t *testing.T) {
	for _, c := range []struct {
		name, script string // $1 is the host's folder
		refused      string // what is said if there can be no layer of it
	}{
		{name: "LinkToHostFile", script: `ln -s "$1/secret" link; ln -s "../../../../../../..$1/secret" up`},
		{name: "LinkToHostFolder", script: `ln -s "$1" link; ln -s . here; ln -s .. above; ln -s loop loop`},
		{name: "LinkInsteadOfFolder", script: `rm -rf given; ln -s "$1" given`},
		{name: "LinkInsteadOfFile", script: `rm -f given/file; ln -s "$1/secret" given/file`},
		{name: "LinkInsteadOfFolderAbove", script: `mv given moved; ln -s "$1" given; ln -s given/secret through`},
		{name: "LinksToKernel", script: `ln -s /proc/self/root root; ln -s /dev/zero zero; ln -s /proc/kcore core`},
		{name: "HardLinkToImage", script: `probe link /etc/passwd /workspace/x; probe link /bin/sh /workspace/y; ln given/file given/twice; test ! -e x -a ! -e y`},
		{name: "HardLinkOutOfWorkspace", script: `probe link /workspace/given/file /tmp/x; test ! -e /tmp/x`},
		{name: "Whiteout", script: `: >.wh.given`, refused: ".wh."},
		{name: "OpaqueFolder", script: `: >given/.wh..wh..opq`, refused: ".wh."},
		{name: "Pipe", script: `probe pipe pipe`, refused: "pipe"},
		{name: "PipeInsteadOfFile", script: `rm given/file; probe pipe given/file`, refused: "pipe"},
		{name: "Socket", script: `probe socket-file socket`, refused: "socket"},
		{name: "Names", script: "echo 1 >'new\nline'; echo 2 >\"$(printf 'x%0254d' 0)\"; echo 3 >\"$(printf '\\377\\376')\"; echo 4 >./-rf; mkdir \"$(printf 'a\\001\\033[2J')\""},
		{name: "DeepFolders", script: `probe deep 4000`, refused: "4096"},
		{name: "ShutFolder", script: `mkdir -p shut/in; echo x >shut/in/f; chmod 000 shut/in/f shut/in shut`},
		{name: "SparseFile", script: `dd if=/dev/null of=sparse bs=1 seek=200M 2>/dev/null; dd if=/dev/null of=huge bs=1 seek=900G 2>/dev/null; rm huge`},
		{name: "ManyFiles", script: `mkdir m; probe files-in m 3000`},
		{name: "Attributes", script: `for a in user.x user.overlay.opaque user.overlay.redirect; do probe xattr given/file $a; done; for a in security.capability trusted.overlay.opaque security.selinux system.posix_acl_access; do probe xattr given/file $a; done; true`},
		{name: "Immutable", script: `probe immutable given/file; probe immutable given`},
		{name: "NoWorkspace", script: `rm -rf given; rmdir /workspace; true`},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			canary := t.TempDir()
			if err := os.WriteFile(filepath.Join(canary, "secret"), []byte("hunter2"), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := os.Mkdir(filepath.Join(h.workspace, "given"), 0o755); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(filepath.Join(h.workspace, "given", "file"), []byte("x"), 0o644); err != nil {
				t.Fatal(err)
			}
			before := fingerprint(t, canary)
			layers := layersIn(t)
			first, index, err := layers.Save(t.Context(), h.workspace, nil)
			if err != nil {
				t.Fatal(err)
			}
			if out, r := h.sh(c.script, canary); r.Status != 0 {
				t.Fatalf("the step failed: %+v: %s", r, out)
			}
			second, _, err := layers.Save(t.Context(), h.workspace, index)
			switch {
			case c.refused != "":
				if fault.Of(err) != fault.Verdict || !strings.Contains(err.Error(), c.refused) {
					t.Errorf("the layer: %v (%s), want one about %q", err, fault.Of(err), c.refused)
				}
			case err != nil:
				t.Errorf("the layer: %v", err)
			default:
				copied := filepath.Join(t.TempDir(), "copied")
				digests := []string{first.Digest}
				if !second.Empty() {
					digests = append(digests, second.Digest)
				}
				if _, err := layers.Restore(t.Context(), copied, digests); err != nil {
					t.Errorf("restore: %v", err)
				}
				harmless(t, copied)
				sameTree(t, h.workspace, copied)
				if err := workspace.Remove(copied); err != nil {
					t.Error(err)
				}
			}
			if err := workspace.Remove(h.workspace); err != nil {
				t.Errorf("clean-up: %v", err)
			}
			if _, err := os.Lstat(h.workspace); !os.IsNotExist(err) {
				t.Errorf("after the clean-up: %v", err)
			}
			if after := fingerprint(t, canary); after != before {
				t.Error("the host's folder was changed")
			}
			if left := leftovers(mustOptions(t).State); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
		})
	}
}

func mustOptions(t *testing.T) Options {
	t.Helper()
	o, err := options()
	if err != nil {
		t.Fatal(err)
	}
	return o
}

// harmless asserts that in a tree nothing has power over the host: no
// set-user-id, no device, no other owner, no attribute but the user's, and no
// content of the host's.
func harmless(t *testing.T, root string) {
	t.Helper()
	_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
		var st unix.Stat_t
		if err := unix.Lstat(path, &st); err != nil {
			t.Error(err)
			return nil
		}
		if st.Uid != uint32(os.Geteuid()) || st.Gid != uint32(os.Getegid()) || st.Mode&(unix.S_ISUID|unix.S_ISGID) != 0 {
			t.Errorf("%q: mode %o, owner %d:%d", path, st.Mode, st.Uid, st.Gid)
		}
		switch st.Mode & unix.S_IFMT {
		case unix.S_IFREG:
			names := make([]byte, 4096)
			n, _ := unix.Llistxattr(path, names)
			for name := range strings.SplitSeq(strings.TrimSuffix(string(names[:max(n, 0)]), "\x00"), "\x00") {
				if name != "" && !strings.HasPrefix(name, "user.") {
					t.Errorf("%q: attribute %s", path, name)
				}
			}
			if b, err := os.ReadFile(path); st.Size < 1<<20 && (err != nil || strings.Contains(string(b), "hunter2")) {
				t.Errorf("%q holds what is the host's: %v", path, err)
			}
		case unix.S_IFDIR, unix.S_IFLNK:
		default:
			t.Errorf("%q: mode %o", path, st.Mode)
		}
		return nil
	})
}

// sameTree asserts that the copy has the same names, modes, sizes and links,
// and needs no more disk.
func sameTree(t *testing.T, root, copied string) {
	t.Helper()
	describe := func(root string) map[string]string {
		all := map[string]string{}
		_ = filepath.WalkDir(root, func(path string, e fs.DirEntry, err error) error {
			var st unix.Stat_t
			if unix.Lstat(path, &st) == nil && path != root {
				target, _ := os.Readlink(path)
				size := st.Size
				if st.Mode&unix.S_IFMT == unix.S_IFDIR {
					size = 0
				}
				all[strings.TrimPrefix(path, root)] = fmt.Sprintf("mode %o, %d bytes, over 100 MB on disk: %v, link to %q", st.Mode, size, st.Blocks > 200_000, target)
			}
			return nil
		})
		return all
	}
	want, got := describe(root), describe(copied)
	for name, w := range want {
		if got[name] != w {
			t.Errorf("%q: restored as %s, was %s", name, got[name], w)
		}
	}
	if len(got) != len(want) {
		t.Errorf("%d files are restored, of %d", len(got), len(want))
	}
}

// TestNobodySwapsLinks: a process that exchanges a folder for a link, on and
// on, is gone with its step, so that who walks through the workspace afterwards
// walks through one that nobody changes.
func TestNobodySwapsLinks(t *testing.T) {
	h := newHost(t)
	canary := t.TempDir()
	h.spec.Args = []string{"sh", "-c", `mkdir a; echo x >a/secret; ln -s "$1" b; for i in 1 2 3; do setsid probe swap /workspace/a /workspace/b & done; sleep 0.1; exit 3`, "sh", canary}
	stop := make(chan struct{})
	counted := make(chan int)
	go func() { // a host that looks while it goes on: the test is worth nothing if nothing is swapped
		swaps, last := 0, ""
		for {
			select {
			case <-stop:
				counted <- swaps
				return
			default:
				if target, _ := os.Readlink(filepath.Join(h.workspace, "a")); target != last {
					last = target
					swaps++
				}
			}
		}
	}()
	r, err := h.s.Run(t.Context(), h.spec)
	close(stop)
	if swaps := <-counted; err != nil || r.Status != 3 || swaps < 2 {
		t.Fatalf("%+v, %v; %d exchanges were seen", r, err, swaps)
	}
	before := fingerprint(t, h.workspace)
	for range 100 {
		if after := fingerprint(t, h.workspace); after != before {
			t.Fatal("somebody still changes the workspace")
		}
		time.Sleep(time.Millisecond)
	}
}

// TestMountedTwice: with a second folder of the same file system mounted a step
// can neither link nor move a file from one to the other.
func TestMountedTwice(t *testing.T) {
	h := newHost(t)
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "file"), nil, 0o644); err != nil {
		t.Fatal(err)
	}
	h.spec.Mounts = append(h.spec.Mounts, sandbox.Mount{Source: other, Target: "/other", ReadOnly: true})
	if out, _ := h.sh("probe link /other/file /workspace/file; probe write /other/file x; : >x; probe link /workspace/x /other/x"); out != "EXDEV\nEROFS\nEXDEV" && out != "EXDEV\nEROFS\nEROFS" {
		t.Error(out)
	}
}
