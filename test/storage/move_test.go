package storage

import (
	"bufio"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	s3test "github.com/distci/distci/test/s3"
	zktest "github.com/distci/distci/test/zk"

	testlab "github.com/distci/distci/test/lab"
)

// contents are the objects of a store in a folder.
func contents(t *testing.T, root string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
		rel, _ := filepath.Rel(root, path)
		if err != nil || strings.HasPrefix(rel, ".") {
			if rel != "." && d != nil && d.IsDir() {
				return fs.SkipDir
			}
			return err
		}
		if d.Type().IsRegular() {
			b, err := os.ReadFile(path)
			all[rel] = string(b)
			return err
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}

// fsck asserts that nothing is wrong.
func (c *cluster) fsck() {
	c.t.Helper()
	if out := c.run("fsck"); !strings.Contains(out, " 0 faults") || !strings.Contains(out, "2 jobs") {
		c.t.Errorf("fsck: %s", out)
	}
}

// TestMove moves real builds from a folder to Ceph with ZooKeeper, to Ceph's S3,
// to another S3 server, and into a folder again, which then holds the same. On
// the way, in Ceph and in S3, collectors are killed and race.
func TestMove(t *testing.T) {
	needCeph(t)
	server := s3test.Ceph(t)
	zk := zktest.Start(t, zktest.Options{})
	first := newCluster(t, "", "")
	first.job(maker(repository(t)))
	first.job(taker)
	w := first.worker("w")
	for range 3 {
		for _, job := range []string{"maker", "taker"} {
			if out, status := first.try("trigger", "--follow", job); status != 0 {
				t.Fatalf("%s: status %d: %s", job, status, out)
			}
		}
	}
	w.End(os.Interrupt)
	first.fsck()
	want := contents(t, strings.TrimPrefix(first.store, "dir:"))
	if len(want) < 40 {
		t.Fatalf("%d objects: %q", len(want), slices.Sorted(maps.Keys(want)))
	}

	archive := filepath.Join(testlab.Dir(t), "archive")
	from := first
	for i, to := range []*cluster{
		newCluster(t, "zk://"+strings.Join(zk.Servers(), ",")+"/move", server.Cluster.Address("move")),
		newCluster(t, "", server.Fresh("")),
		newCluster(t, "", s3test.Versity(t, true).Fresh("")),
		newCluster(t, "", ""),
	} {
		from.run("export", archive)
		if out := to.run("import", archive); !strings.Contains(out, "2 jobs, 6 builds") {
			t.Errorf("import: %s", out)
		}
		to.fsck()
		if i == 1 || i == 2 { // from is in Ceph, or in its S3; a killed collector costs a session's time-out
			from.collect()
		}
		from = to
	}
	if got := contents(t, strings.TrimPrefix(from.store, "dir:")); !maps.Equal(got, want) {
		for key := range want {
			if got[key] != want[key] {
				t.Errorf("%s: %d bytes, want %d", key, len(got[key]), len(want[key]))
			}
		}
		t.Errorf("%d objects, want %d", len(got), len(want))
	}
}

// collect removes the builds but the last of each job: by a gc that is killed in
// the middle, by two at once, and by one that finishes the work.
func (c *cluster) collect() {
	c.t.Helper()
	args := []string{"gc", "--keep-builds", "1", "--list"}
	killed := c.command(args...)
	out, err := killed.StdoutPipe()
	if err == nil {
		err = c.spawn.Start(killed)
	}
	if err != nil {
		c.t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || !strings.HasPrefix(line, "build ") {
		c.t.Errorf("gc has printed %q, %v", line, err)
	}
	_ = killed.Process.Signal(syscall.SIGKILL)
	_ = killed.Wait()

	// The right of the one that was killed lasts as long as its session.
	var status [2]int
	testlab.Until(c.t, "one of two may collect", func() bool {
		var wg sync.WaitGroup
		for i := range status {
			wg.Go(func() { _, status[i] = c.try(args...) })
		}
		wg.Wait()
		return status[0] == 0 || status[1] == 0
	})
	if s := max(status[0], status[1]); s != 0 && s != 75 {
		c.t.Errorf("two at once: %d", status)
	}
	if out := c.run(args...); !strings.Contains(out, "2 jobs, 2 finished builds stay; 0 objects") {
		c.t.Errorf("the work was not finished: %s", out)
	}
	c.fsck()
	for _, job := range []string{"maker", "taker"} {
		if builds := strings.Fields(c.run("list", job)); len(builds) == 0 || builds[0] != "3" {
			c.t.Errorf("of %s there is %q", job, builds)
		}
	}
	dir := c.path("downloads")
	c.run("download", "maker", "3", "--output", dir)
	if b, err := os.ReadFile(filepath.Join(dir, "out/lines")); err != nil || !strings.HasSuffix(string(b), "build 3 line 20000\n") {
		c.t.Errorf("the artefact that stays: %d bytes, %v", len(b), err)
	}
}
