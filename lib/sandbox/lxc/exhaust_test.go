package lxc

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// TestExhaustMemoryBy: whatever a step fills memory with is its own memory: it
// is told that there is no more, or is killed, and the host has as much as
// before.
func TestExhaustMemoryBy(t *testing.T) {
	for name, script := range map[string]string{
		"FilesInTmp":    `i=0; while dd if=/dev/zero of=/tmp/$i bs=1M count=4; do i=$((i+1)); done`,
		"SharedMemory":  `i=0; while dd if=/dev/zero of=/dev/shm/$i bs=1M count=4; do i=$((i+1)); done`,
		"EmptyFiles":    `mkdir /tmp/d; probe files-in /tmp/d 10000000`,
		"DeviceFolder":  `i=0; while dd if=/dev/zero of=/dev/$i bs=1M count=4; do i=$((i+1)); done`,
		"ManyProcesses": `i=0; while [ $i -lt 100 ]; do probe allocate 4000000 & i=$((i+1)); done; wait`,
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.spec.Limits.Memory, h.spec.Limits.Processes = 64<<20, 500
			_, r, stats := h.run("("+script+") >/dev/null 2>&1; true", "")
			if stats.PeakMemory == 0 || stats.PeakMemory > 65<<20 { // the kernel counts in batches
				t.Errorf("peak %d, %+v", stats.PeakMemory, r)
			}
			if out, r := h.sh("echo well; ls -A /tmp"); out != "well" || r.Status != 0 {
				t.Errorf("after it: %q, %+v", out, r)
			}
		})
	}
}

// TestExhaustDiskBy: ways around a count that goes by names.
func TestExhaustDiskBy(t *testing.T) {
	for name, script := range map[string]string{
		"UnlinkedFiles":       `probe unlinked /workspace 4`,
		"UnlinkedFilesOfRoot": `probe unlinked /var 4`,
		"DeepFolders":         `mkdir /workspace/d; cd /workspace/d; probe deep 700 && dd if=/dev/zero of=x bs=1M count=20; cd /workspace/d; i=0; while :; do mkdir /workspace/$i; cd /workspace/$i; probe deep 60; i=$((i+1)); done`,
		"ShutFolders":         `i=0; while :; do mkdir /workspace/$i; dd if=/dev/zero of=/workspace/$i/f bs=1M count=2; chmod 000 /workspace/$i; i=$((i+1)); done`,
		"ReadOnlyRoot":        `i=0; while :; do dd if=/dev/zero of=/workspace/$i bs=1M count=2; i=$((i+1)); done`,
		"Folders":             `i=0; while :; do mkdir /workspace/$i; i=$((i+1)); done`,
		"Links":               `i=0; while :; do ln -s x /workspace/$i; i=$((i+1)); done`,
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t)
			h.spec.Limits.Disk, h.spec.User, h.spec.ReadOnly = 24<<20, "0", name == "ReadOnlyRoot"
			if name == "Folders" || name == "Links" {
				h.spec.Limits.Disk = 1 << 20
			}
			if out, r := h.sh("(" + script + ") >/dev/null 2>&1; echo ended"); !r.Full || r.Signal != 9 {
				t.Errorf("got %+v, want it full: %s", r, out)
			}
			var st unix.Statfs_t
			if err := unix.Statfs(h.workspace, &st); err != nil {
				t.Error(err)
			}
			if out, r := h.sh("echo well"); out != "well" || r.Status != 0 || r.Full {
				t.Errorf("after it: %q, %+v", out, r)
			}
		})
	}
}

// TestDiskCountsOnce: links do not count as copies, what was there before does
// not count, and what is removed no longer does.
func TestDiskCountsOnce(t *testing.T) {
	h := newHost(t)
	if out, err := exec.Command("dd", "if=/dev/zero", "of="+filepath.Join(h.workspace, "old"), "bs=1M", "count=50").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if err := os.Symlink("/usr", filepath.Join(h.workspace, "usr")); err != nil {
		t.Fatal(err)
	}
	h.spec.Limits.Disk = 24 << 20
	out, r := h.sh(`dd if=/dev/zero of=new bs=1M count=8 2>/dev/null; i=0; while [ $i -lt 50 ]; do ln new l$i; i=$((i+1)); done
		sleep 0.5; i=0; while [ $i -lt 20 ]; do dd if=/dev/zero of=t bs=1M count=8 2>/dev/null; rm t; i=$((i+1)); done; echo fine`)
	if r.Full || r.Status != 0 || out != "fine" {
		t.Errorf("%+v: %s", r, out)
	}
}

// TestDeepFoldersInRoot: a chain of more folders than this process may have
// descriptors goes with its container.
func TestDeepFoldersInRoot(t *testing.T) {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	if limit.Max > 50_000 {
		limit.Max = 50_000
	}
	h := newHost(t)
	h.spec.User, h.spec.Dir = "0", "/"
	_, r, stats := h.run(`mkdir /var/d; cd /var/d; probe deep $1 >/dev/null`, strconv.Itoa(int(limit.Max)+100))
	if r.Status != 0 {
		t.Errorf("%+v", r)
	}
	if left := leftovers(mustOptions(t).State); len(left) > 0 {
		t.Errorf("%s left %q", stats.Container, left)
	}
}

// TestExhaustTerminals: there are only so many.
func TestExhaustTerminals(t *testing.T) {
	h := newHost(t)
	if out, _ := h.sh(`ulimit -n; probe terminals`); !strings.Contains(out, "ENOSPC") && !strings.Contains(out, "ENOENT") && !strings.Contains(out, "EACCES") {
		t.Error(out)
	}
}
