package lxc

import (
	"bytes"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/sandbox/wire"
)

// run runs a script, and tells more about it than sh does.
func (h *host) run(script string, args ...string) (string, sandbox.Result, wire.Stats) {
	h.t.Helper()
	spec := h.spec
	spec.Args = append([]string{"sh", "-c", script, "sh"}, args...)
	var out bytes.Buffer
	spec.Stdout, spec.Stderr = &out, &out
	r, stats, err := h.s.(*Sandbox).RunStats(h.t.Context(), spec)
	if err != nil {
		h.t.Fatalf("%v\n%s", err, out.String())
	}
	return strings.TrimSpace(out.String()), r, stats
}

// marker returns a number of seconds that nobody else sleeps.
func marker() string {
	return fmt.Sprintf("%d.%09d", 500_000+rand.IntN(100_000), rand.IntN(1e9))
}

// TestOutliveBy has a step end while something of it wants to live on, in each
// of the ways that there are. When Run returns nothing is left of it, and the
// step's own status is told.
func TestOutliveBy(t *testing.T) {
	for _, c := range []struct {
		name, script string // $1 is what to sleep
		alone        bool   // nothing is left already when the step ends
	}{
		{name: "Background", script: `sleep $1 &`},
		{name: "NewSession", script: `setsid sleep $1 &`},
		{name: "DoubleFork", script: `(setsid setsid sh -c "sleep $1 & exec true" &) ; sleep 0.05`},
		{name: "NoHangup", script: `nohup sleep $1 >/dev/null 2>&1 &`},
		{name: "ImmortalHandler", script: `sh -c "trap '' TERM HUP INT QUIT USR1 USR2; while :; do sleep $1; done" & sleep 0.05`},
		{name: "Stopped", script: `setsid sh -c "kill -STOP \$\$; sleep $1" & setsid sleep $1 & sleep 0.05; kill -STOP $!`},
		{name: "WaitingInVfork", script: `probe vfork >o $1 & until [ -s o ]; do :; done`},
		{name: "Zombies", script: `sh -c "i=0; while [ \$i -lt 50 ]; do true & i=\$((i+1)); done; exec sleep $1" & sleep 0.1`},
		{name: "HoldsOutputOpen", script: `setsid sleep $1 2>&1 & echo begun`},
		{name: "HoldsOutputAndWrites", script: `setsid sh -c "while :; do echo x; done; sleep $1" &`},
		{name: "Respawning", script: `f() { f $1 & }; f $1; sleep 0.05`},
		{name: "RespawningInNewSessions", script: `echo 'setsid sh /tmp/f $1 &' >/tmp/f; sh /tmp/f $1; sleep 0.1`},
		{name: "HundredDaemons", script: `i=0; while [ $i -lt 100 ]; do setsid sleep $1 & i=$((i+1)); done`},
		{name: "ReplacesItself", script: `exec sh -c 'setsid sleep $0 & exit 9' $1`},
		{name: "KillsEverybody", script: `setsid sleep $1 & kill -9 -1`, alone: true},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			h.spec.Limits.Processes = 300
			word := marker()
			out, r, stats := h.run(c.script+"\nexit 9", word)
			if r.Status != 9 || r.Signal != 0 {
				t.Errorf("%+v: %.200s", r, out)
			}
			if left := processes(word); len(left) > 0 {
				t.Errorf("left: %q", left)
			}
			if stats.Leftovers == 0 && !c.alone && c.name != "Respawning" && c.name != "RespawningInNewSessions" {
				t.Error("there was nothing that wanted to live on")
			}
			if left := groupsOf(stats.Container); len(left) > 0 {
				t.Errorf("control groups: %q", left)
			}
		})
	}
}

// groupsOf lists a container's control groups, in all hierarchies.
func groupsOf(container string) (found []string) {
	_ = filepath.WalkDir("/sys/fs/cgroup", func(path string, e os.DirEntry, err error) error {
		if err == nil && e.IsDir() && strings.Contains(filepath.Base(path), "."+container) {
			found = append(found, path)
		}
		return nil
	})
	return found
}

// TestNextStepFinds has a step leave what could be found by the next one that
// has the same ids and the same name, and has that one look for it.
func TestNextStepFinds(t *testing.T) {
	for _, c := range []struct{ name, leave, look, want string }{
		{"FileInTmp", `touch /tmp/x`, `ls -A /tmp`, ""},
		{"FileInMemory", `touch /dev/shm/x`, `ls -A /dev/shm`, ""},
		{"DeviceFolder", `touch /dev/x 2>/dev/null; mkdir /dev/d 2>/dev/null`, `ls /dev | grep -x -e x -e d`, ""},
		{"ChangedProgram", `echo 'exit 3' >/bin/true; rm -f /bin/false; echo >/etc/ld.so.preload`, `true && ls /bin/false /etc/ld.so.preload 2>/dev/null`, "/bin/false"},
		{"ChangedPasswd", `echo 'x::0:0::/:/bin/sh' >>/etc/passwd`, `grep -c '^x:' /etc/passwd`, "0"},
		{"NoMoreImage", `cd /; rm -rf /bin /lib /usr /etc /var 2>/dev/null`, `ls /etc/passwd /bin/sh`, "/bin/sh\n/etc/passwd"},
		{"ShutRoot", `chmod 000 /bin /lib /etc /`, `ls /etc/passwd`, "/etc/passwd"},
		{"SharedMemorySystemV", `probe sysv-make`, `probe sysv-find`, "ENOENT"},
		{"MessageQueue", `probe mqueue-make`, `probe mqueue-find`, "ENOENT"},
		{"AbstractSocket", `setsid probe listen @left >/tmp/o & until [ -s /tmp/o ]; do :; done`, `probe connect unix @left`, "ECONNREFUSED"},
		{"Port", `setsid sh -c 'exec sleep 600' &`, `probe connect tcp 127.0.0.1:8080`, "ECONNREFUSED"},
		{"Keyring", `probe add_key`, `probe keyctl`, "ENOSYS"},
		{"Processes", `setsid sleep 600 & setsid sleep 600 &`, `ls /proc | grep -c '^[0-9]*$'`, "5"}, // PID 1, sh, and the pipe's two and a half
		{"Niceness", `nice -n 19 true; ulimit -f 1 -n 10`, `ulimit -f`, "unlimited"},
		{"Hostname", `probe hostname >/dev/null; echo >/etc/hostname`, `hostname`, "distci"},
		{"FirstProcess", `kill -9 1; kill -STOP 1; kill -TERM 1; true`, `echo well`, "well"},
		{"MemoryOfTheFirst", `probe write /proc/1/oom_score_adj 1000; probe write /proc/1/mem x; true`,
			// It has another while it starts a program.
			`i=0; until [ "$(cat /proc/1/oom_score_adj)" = 0 ] || [ $i = 100 ]; do i=$((i+1)); sleep 0.05; done; cat /proc/1/oom_score_adj`, "0"},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := newHost(t)
			h.spec.User = "0"
			h.spec.Dir = "/"
			out, _, first := h.run(c.leave)
			if strings.Contains(out, "what is") {
				t.Fatal(out)
			}
			found, _, second := h.run(c.look)
			if first.Container != second.Container || first.IDs != second.IDs {
				t.Fatalf("the next step had %s and not %s", second.Container, first.Container)
			}
			if c.name == "Processes" {
				if n := len(found); n != 1 || found[0] > '6' {
					t.Errorf("%s processes", found)
				}
			} else if found != c.want {
				t.Errorf("found %q, want %q", found, c.want)
			}
		})
	}
}
