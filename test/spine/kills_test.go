package spine

import (
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/ticket"
	"github.com/distci/distci/test/rootfs"
)

// TestClaimsKilled kills workers with containers at random moments, ten at a
// time: nothing of them is left but folders that the next worker of the same
// state removes, and no ticket is lost.
func TestClaimsKilled(t *testing.T) {
	rootfs.Need(t)
	kills := 20
	if n, err := strconv.Atoi(os.Getenv("DISTCI_KILLS")); err == nil {
		kills = n
	}
	l := newLab(t)
	programs, flags := l.containers()
	l.frontend()
	word := fmt.Sprintf("0.3%06d%06d", os.Getpid(), rand.IntN(1e6)) // a third of a second that nobody else sleeps
	l.shellJob("killed", "echo x > file; setsid sleep 9"+word[2:]+" & sleep "+word, "test -e file; sleep "+word)
	command := func(name string) *proc {
		return l.startCommand(name, l.env(), filepath.Join(programs, "distci-claim"), append([]string{"--loop", "--name", name,
			"--session-timeout", "2s", "--state", l.path("state"), "--path", programs}, flags...)...)
	}
	var last []string
	left := func() []string {
		last = rootfs.Left("/var/lib/distci/lxc", word, "9"+word[2:], programs+"/distci-lxc", programs+"/distci-claim", programs+"/libexec")
		return last
	}
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("there was at last: %q", last)
		}
	})
	l.until("nothing of before", func() bool { return len(left()) == 0 })
	var builds []ticket.Number
	for range max(10, kills/4) {
		builds = append(builds, l.trigger("killed"))
	}
	for batch := 0; batch < kills; batch += 10 {
		var wg sync.WaitGroup
		for i := range min(10, kills-batch) {
			p := command(fmt.Sprintf("victim-%d-%d", batch, i))
			wg.Go(func() {
				time.Sleep(time.Duration(rand.IntN(2000)) * time.Millisecond) // the moment of death is what the test is about
				p.kill()
				<-p.Done
			})
		}
		wg.Wait()
	}
	l.until("nothing is left of killed workers", func() bool { return len(left()) == 0 })
	survivor := command("survivor")
	results := map[string]int{}
	var attempts int
	for _, n := range builds {
		s := l.finished("killed", n)
		results[s.Result]++
		said := ""
		for _, task := range s.Tasks {
			attempts += task.Attempt
			said += task.Error
		}
		// A build ends well, or says that its workers died too often.
		if s.Result != ticket.Success && !strings.Contains(said+s.Error, "attempt") {
			t.Errorf("build %d: %s: %s %s", n, s.Result, s.Error, said)
		}
	}
	if err := survivor.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	<-survivor.Done
	l.until("nothing is left", func() bool { return len(left()) == 0 })
	if folders, _ := filepath.Glob(l.path("state/work/*")); len(folders) > 0 {
		t.Errorf("folders of workers: %q", folders)
	}
	t.Logf("%d workers killed; %d builds ended as %v after %d attempts at %d steps; nothing is left", kills, len(builds), results, attempts, 2*len(builds))
}
