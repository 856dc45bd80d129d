package vm

import (
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/ticket"
)

// limits are for each step, as an operator gives them.
const limits = "--memory 134217728 --pids 60 --cpus 0.5"

// script is a step that looks where it is, and tries to leave.
const script = `set +e
echo "user $(id -u), $(wc -l </proc/self/cgroup) hierarchy"
cat /etc/distci/* 2>&1 | grep -c password
grep -c /srv/distci /proc/mounts
echo o >/proc/sysrq-trigger || echo refused
kill -9 1
perl -e 'syscall(169, 0xfee1dead, 672274793, 0x4321fedc, 0) == 0 or print "power off: $!\n"' # reboot(2) of amd64
(i=0; while [ $i -lt 100 ]; do sleep 1000 >/dev/null 2>&1 & i=$((i+1)); done) 2>&1 | grep -o 'annot fork'
echo made >file
echo "the machine is on"`

// TestStep has a machine that does one step, in a container with limits, and
// is off after that; what the step tries to do to the machine is refused.
func TestStep(t *testing.T) {
	c := newCluster(t)
	n := c.step("one", script)
	m := c.boot(limits)
	c.until("the step runs", func() bool { return strings.Contains(c.console("one", n), " on machine1/") })
	t.Logf("from power to a claim: %s", time.Since(m.began).Round(time.Second))
	s := c.finished("one", n)
	m.off()
	if s.Result != ticket.Success || len(s.Tasks["0"].Workspace) != 1 {
		t.Errorf("%s: %+v", s.Result, s.Tasks["0"])
	}
	for _, want := range []string{"user 1000, 1 hierarchy\n0\n0\n", "refused\n", "power off: Operation not permitted\n", "annot fork\n", "the machine is on\n"} {
		if console := c.console("one", n); !strings.Contains(console, want) {
			t.Errorf("no %q in:\n%s", want, console)
		}
	}
}

// TestMemory has a step that wants more memory than it may have: that is its
// result, and the machine's other processes live.
func TestMemory(t *testing.T) {
	c := newCluster(t)
	n := c.step("much", "tail /dev/zero")
	m := c.boot(limits)
	s := c.finished("much", n)
	m.off()
	if s.Result != ticket.Failure || !strings.Contains(s.Tasks["0"].Error, "memory") || strings.Contains(c.console("much", n), "attempt 2") {
		t.Errorf("%s: %+v\n%s", s.Result, s.Tasks["0"], c.console("much", n))
	}
}

// TestNoTicket has a machine for which there is no work.
func TestNoTicket(t *testing.T) {
	c := newCluster(t)
	c.boot("--wait 1s").off()
}

// TestNoSettings has a machine whose settings are wrong.
func TestNoSettings(t *testing.T) {
	c := newCluster(t)
	c.boot("--sandbox none").off()
}

// TestKilled has two machines, and cuts off that which does the step. The
// other one, which has waited, does it again.
func TestKilled(t *testing.T) {
	c := newCluster(t)
	first := c.boot(limits)
	n := c.step("twice", "sleep 5; echo was here")
	c.until("the step runs", func() bool { return strings.Contains(c.console("twice", n), " on machine1/") })
	second := c.boot(limits)
	first.Kill()
	killed := time.Now()
	s := c.finished("twice", n)
	t.Logf("from the kill to the result of the next machine: %s", time.Since(killed).Round(time.Second))
	second.off()
	console := c.console("twice", n)
	if s.Result != ticket.Success || !strings.Contains(console, " on machine2/") || !strings.Contains(console, "attempt 2") {
		t.Errorf("%s\n%s", s.Result, console)
	}
}
