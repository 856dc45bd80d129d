package lxc

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/test/rootfs"
)

// host is what a hostile step is up against: a worker with a workspace.
type host struct {
	t         *testing.T
	s         sandbox.Sandbox
	workspace string
	spec      sandbox.Spec
}

func newHost(t *testing.T) *host {
	t.Helper()
	rootfs.Need(t)
	s, err := open()
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, s: s, workspace: t.TempDir()}
	h.spec = sandbox.Spec{Env: []string{"PATH=/bin"}, Dir: "/workspace", Grace: time.Second,
		Mounts: []sandbox.Mount{{Source: h.workspace, Target: "/workspace"}}}
	return h
}

// sh runs a script in a fresh container, and returns its output and result.
func (h *host) sh(script string, args ...string) (string, sandbox.Result) {
	h.t.Helper()
	spec := h.spec
	spec.Args = append([]string{"sh", "-c", script, "sh"}, args...)
	var out bytes.Buffer
	spec.Stdout, spec.Stderr = &out, &out
	r, err := h.s.Run(h.t.Context(), spec)
	if err != nil {
		h.t.Fatalf("%v\n%s", err, out.String())
	}
	return strings.TrimSpace(out.String()), r
}

// TestRefused has a step try what needs a system call or a file of the kernel,
// as an ordinary user and as the container's root.
func TestRefused(t *testing.T) {
	h := newHost(t)
	for _, user := range []string{"", "0"} {
		h.spec.User = user
		name := "User"
		if user == "0" {
			name = "Root"
		}
		t.Run(name, func(t *testing.T) {
			for _, c := range []struct{ name, command, want string }{
				{"Mount", "mount /tmp", "EPERM"},
				{"Unmount", "umount /proc", "EPERM"},
				{"RemountWritable", "remount /sys", "EPERM"},
				{"NewMount", "fsopen", "EPERM"},
				{"CloneMount", "open_tree", "EPERM"},
				{"PivotRoot", "pivot_root /tmp", "EPERM"},
				{"Chroot", "chroot", "EPERM"},
				{"UserNamespace", "unshare-user", "EPERM"},
				{"UserNamespaceByClone", "clone-user", "EPERM"},
				{"Clone3", "clone3", "ENOSYS"},
				{"NetworkNamespace", "unshare-net", "EPERM"},
				{"EnterNamespace", "setns", "EPERM"},
				{"LoadModule", "module", "EPERM"},
				{"InitModule", "init_module", "EPERM"},
				{"Kexec", "kexec", "EPERM"},
				{"BPF", "bpf", "EPERM"},
				{"PerfEvents", "perf", "EPERM"},
				{"Keyctl", "keyctl", "ENOSYS"},
				{"AddKey", "add_key", "ENOSYS"},
				{"IOUring", "io_uring", "EPERM"},
				{"Userfaultfd", "userfaultfd", "EPERM"},
				{"TraceFirstProcess", "ptrace 1", "EPERM"},
				{"ReadMemoryOfFirstProcess", "memory 1", "EPERM"},
				{"RawSocket", "socket raw", "EPERM"},
				{"PacketSocket", "socket packet", "EAFNOSUPPORT"},
				{"VirtualMachineSocket", "socket vsock", "EAFNOSUPPORT"},
				{"CryptoSocket", "socket alg", "EAFNOSUPPORT"},
				{"DeviceNode", "mknod /tmp/d", "EPERM"},
				{"DiskDeviceNode", "mknod-block /workspace/d", "EPERM"},
				{"FileHandles", "handle", "EPERM"},
				{"Reboot", "reboot", "EPERM"},
				{"SetTime", "settime", "EPERM"},
				{"Hostname", "hostname", "EPERM"},
				{"KernelLog", "syslog", "EPERM"},
				{"RaisePriority", "nice", "EACCES"},
				{"TypeIntoTerminal", "sti", "EPERM"},
				{"CoreFiles", "core", "EPERM"},
				{"DevMem", "open /dev/mem", "ENOENT"},
				{"DevKmsg", "open /dev/kmsg", "ENOENT"},
				{"Disk", "open /dev/vda", "ENOENT"},
				{"SysRq", "write /proc/sysrq-trigger h", "EACCES|ENOENT"},
				{"CorePattern", "write /proc/sys/kernel/core_pattern |/bin/sh", "EROFS|EACCES"},
				{"KernelMemory", "open /proc/kcore", "EACCES|ENOENT|EOF"},
				{"MemoryOfFirstProcess", "open /proc/1/mem", "EACCES"},
				{"EnvironmentOfFirstProcess", "open /proc/1/environ", "EACCES"},
				{"UeventHelper", "write /sys/kernel/uevent_helper x", "ENOENT"},
				{"SysPower", "write /sys/power/state mem", "ENOENT"},
				{"Cgroups", "open /sys/fs/cgroup/memory/memory.limit_in_bytes", "ENOENT"},
			} {
				t.Run(c.name, func(t *testing.T) {
					got, _ := h.sh("exec probe " + strings.ReplaceAll(c.command, "|", `\|`))
					for _, want := range strings.Split(c.want, "|") {
						if got == want {
							return
						}
					}
					t.Errorf("probe %s: %s, want %s", c.command, got, c.want)
				})
			}
		})
	}
}

// TestNothingOfTheWorker looks for what the worker has in its environment, on
// its disk and among its processes.
func TestNothingOfTheWorker(t *testing.T) {
	t.Setenv("WORKERS_SECRET", "hunter2")
	h := newHost(t)
	secret := filepath.Join(t.TempDir(), "credentials")
	if err := os.WriteFile(secret, []byte("hunter2"), 0o644); err != nil {
		t.Fatal(err)
	}
	t.Run("Environment", func(t *testing.T) {
		if out, _ := h.sh("env; cat /proc/*/environ 2>/dev/null"); strings.Contains(out, "hunter2") {
			t.Errorf("found it: %s", out)
		}
	})
	t.Run("Files", func(t *testing.T) {
		if out, _ := h.sh(`probe open "$1"; probe open "/proc/1/root$1"; probe open "/proc/self/cwd/../$1"`, secret); strings.Contains(out, "allowed") {
			t.Errorf("%s: %s", secret, out)
		}
	})
	t.Run("Processes", func(t *testing.T) {
		sleeper := exec.Command("sleep", "600")
		if err := sleeper.Start(); err != nil {
			t.Fatal(err)
		}
		defer sleeper.Wait()
		defer sleeper.Process.Kill()
		pid := strconv.Itoa(sleeper.Process.Pid)
		if out, _ := h.sh(`ls /proc | grep -c '^[0-9]'; probe kill $1; probe ptrace $1; probe memory $1; kill -9 -1; true`, pid); strings.Contains(out, "allowed") {
			t.Errorf("process %s: %s", pid, out)
		}
		if err := unix.Kill(sleeper.Process.Pid, 0); err != nil {
			t.Errorf("the host's process: %v", err)
		}
	})
	t.Run("Descriptors", func(t *testing.T) {
		if out, _ := h.sh(`ls /proc/self/fd | wc -l; ls -l /proc/$$/fd`); !strings.HasPrefix(out, "4\n") { // three, and that of ls
			t.Errorf("open: %s", out)
		}
	})
	t.Run("Sockets", func(t *testing.T) {
		l, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		abstract, err := net.Listen("unix", "@distci-test-"+strconv.Itoa(os.Getpid()))
		if err != nil {
			t.Fatal(err)
		}
		defer abstract.Close()
		tcp, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer tcp.Close()
		for _, l := range []net.Listener{l, abstract, tcp} {
			a := l.Addr()
			if out, _ := h.sh(`probe connect "$1" "$2"`, a.Network(), a.String()); out != "ENOENT" && out != "ECONNREFUSED" {
				t.Errorf("%s %s: %s", a.Network(), a, out)
			}
		}
	})
	t.Run("FirstProcessHasNoListener", func(t *testing.T) {
		if out, _ := h.sh("probe connect unix /dev/.distci/socket"); out != "ECONNREFUSED" && out != "EACCES" {
			t.Error(out)
		}
	})
	t.Run("Network", func(t *testing.T) {
		for _, address := range []string{"192.0.2.1:80", "169.254.169.254:80", "[2001:db8::1]:80"} {
			if out, _ := h.sh(`probe connect tcp "$1"`, address); out != "ENETUNREACH" {
				t.Errorf("%s: %s", address, out)
			}
		}
	})
	t.Run("LoopbackWorks", func(t *testing.T) {
		if out, _ := h.sh("probe connect tcp 127.0.0.1:1; probe connect tcp '[::1]:1'"); out != "ECONNREFUSED\nECONNREFUSED" && out != "ECONNREFUSED\nEADDRNOTAVAIL" {
			t.Error(out)
		}
	})
}

// TestWorkspace is about what a step can leave in the folder that the host
// works with afterwards.
func TestWorkspace(t *testing.T) {
	h := newHost(t)
	if err := os.WriteFile(filepath.Join(h.workspace, "given"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Run("Owner", func(t *testing.T) {
		if out, r := h.sh("cat given; echo made >made; mkdir -p a/b; ln -s /etc/passwd link; echo >a/b/c"); r.Status != 0 {
			t.Fatal(out)
		}
		for _, name := range []string{"made", "a", "a/b/c", "link"} {
			var st unix.Stat_t
			if err := unix.Lstat(filepath.Join(h.workspace, name), &st); err != nil || st.Uid != uint32(os.Geteuid()) || st.Gid != uint32(os.Getegid()) {
				t.Errorf("%s: %d:%d, %v", name, st.Uid, st.Gid, err)
			}
		}
	})
	for _, c := range []struct{ name, command string }{
		{"SetUserID", "chmod /workspace/f"}, {"SetGroupID", "chmod-gid /workspace/f"}, {"SetUserIDOfOpenFile", "fchmod /workspace/f"},
		{"SetUserIDByNewCall", "fchmodat2 /workspace/f"}, {"SetUserIDAtCreation", "create-setuid /workspace/g"}, {"SetUserIDByOpenat2", "openat2 /workspace/g"},
		{"Chown", "chown /workspace/f"}, {"Capabilities", "setcap /workspace/f"}, {"DeviceNode", "mknod /workspace/d"},
	} {
		for _, user := range []string{"", "0"} {
			t.Run(c.name+user, func(t *testing.T) {
				h := newHost(t)
				h.spec.User = user
				out, _ := h.sh(": >f; probe " + c.command)
				if user == "0" && c.name == "Chown" {
					return // to itself
				}
				if !strings.HasPrefix(out, "E") {
					t.Errorf("probe %s: %s", c.command, out)
				}
				_ = filepath.Walk(h.workspace, func(path string, fi os.FileInfo, err error) error {
					if err != nil || fi.Mode()&(os.ModeSetuid|os.ModeSetgid|os.ModeDevice) != 0 {
						t.Errorf("%s: %v, %v", path, fi.Mode(), err)
					}
					return nil
				})
			})
		}
	}
	t.Run("MountsAreSafe", func(t *testing.T) {
		out, _ := h.sh("grep -E ' /(workspace|tmp|dev/shm)? ' /proc/mounts")
		for line := range strings.Lines(out) {
			if f := strings.Fields(line); !strings.Contains(f[3], "nosuid") || !strings.Contains(f[3], "nodev") {
				t.Error(line)
			}
		}
		if strings.Count(out, "\n") != 3 {
			t.Errorf("mounts: %s", out)
		}
	})
	t.Run("ReadOnlyMount", func(t *testing.T) {
		h := newHost(t)
		h.spec.Mounts[0].ReadOnly = true
		if out, _ := h.sh("probe write /workspace/x y; : >x; true"); !strings.Contains(strings.ToLower(out), "read-only") {
			t.Error(out)
		}
	})
	t.Run("OtherMountsStayOthers", func(t *testing.T) {
		h := newHost(t)
		other := filepath.Join(h.workspace, "others")
		if err := os.WriteFile(other, []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Chown(other, 12345, 12345); err != nil {
			t.Fatal(err)
		}
		if out, _ := h.sh("probe open /workspace/others"); out != "EACCES" {
			t.Error(out)
		}
	})
}

// TestNextStep runs a step that spoils what it can, and another after it.
func TestNextStep(t *testing.T) {
	h := newHost(t)
	for _, user := range []string{"0", "", "0"} {
		h.spec.User = user
		if out, _ := h.sh(`ls -A /tmp /dev/shm; test -e /spoilt && echo spoilt; exec 2>/dev/null
			touch /spoilt /tmp/t /dev/shm/s; rm -rf /etc /usr; echo "exit 1" >/bin/true; setsid sleep 1000 & true`); out != "/dev/shm:\n\n/tmp:" {
			t.Errorf("found %q", out)
		}
	}
	if out, r := h.sh("cat /etc/passwd >/dev/null && /bin/true && ls -A /tmp"); out != "" || r.Status != 0 {
		t.Errorf("after it: %q, %+v", out, r)
	}
}
