package repo

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/lib/coord/local"
	"github.com/distci/distci/lib/coord/zk"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/version"
	zktest "github.com/distci/distci/test/zk"
)

func connect(t *testing.T, file string) coord.Conn {
	t.Helper()
	c, err := local.Open(t.Context(), file, local.Options{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// plant makes nodes; the data follow a path's "=".
func plant(t *testing.T, c coord.Conn, nodes ...string) {
	t.Helper()
	for _, n := range nodes {
		path, data, _ := strings.Cut(n, "=")
		if _, err := c.Txn(t.Context(), coord.Create(path, []byte(data))); err != nil {
			t.Fatal(err)
		}
	}
}

// all reads the whole tree: of every node its data and its numbers, which tell
// of any write.
func all(t *testing.T, c coord.Conn) map[string]string {
	t.Helper()
	tree := map[string]string{}
	var walk func(path string)
	walk = func(path string) {
		data, st, err := c.Get(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		tree[path] = fmt.Sprintf("%q version %d, made by %d, set by %d, %d children", data, st.Version, st.Czxid, st.Mzxid, st.NumChildren)
		names, err := c.Children(t.Context(), path)
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range names {
			walk(strings.TrimSuffix(path, "/") + "/" + n)
		}
	}
	walk("/")
	return tree
}

const known = "distci " + version.Number + " knows"

// TestFormat: which trees are opened and which are not. What is refused stays
// as it was, to the number of every node's last transaction.
func TestFormat(t *testing.T) {
	t.Run("local", func(t *testing.T) {
		formats(t, func(t *testing.T) coord.Conn { return connect(t, filepath.Join(t.TempDir(), "coord.db")) })
	})
	t.Run("zk", func(t *testing.T) {
		servers, n := zktest.Start(t, zktest.Options{}).Servers(), 0
		formats(t, func(t *testing.T) coord.Conn {
			n++
			c, err := zk.Open(t.Context(), zk.Address{Servers: servers, Path: fmt.Sprint("/cluster-", n)}, zk.Options{SessionTimeout: 10 * time.Second})
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return c
		})
	})
}

func formats(t *testing.T, fresh func(t *testing.T) coord.Conn) {
	ours := []string{"/q", "/q/x", "/run", "/c", "/lease", "/jobs", "/jobs/j=3", "/builds"}
	with := func(more ...string) []string { return append(more, ours...) }
	for _, c := range []struct {
		what  string
		nodes []string
		want  []string // of the error; none: it is opened
	}{
		{"empty", nil, nil},
		{"ours", with(`/format={"format":1,"by":"distci 0.0.9"}`), nil},
		{"with more in the record", []string{`/format={"format":1,"by":"x","colour":"red"}`}, nil},
		{"only the number", []string{`/format={"format":1}`}, nil},
		{"unnumbered", ours, nil},

		{"newer", with(`/format={"format":2,"by":"distci 7.0"}`), []string{"format 2", `"distci 7.0"`, known + " formats up to 1"}},
		{"newer, made by nobody", []string{`/format={"format":900}`}, []string{"format 900", known}},
		{"older than the first", with(`/format={"format":0,"by":"distci 0.0.1"}`), []string{"/format", "format 0", `"distci 0.0.1"`, known}},
		{"less than nothing", []string{`/format={"format":-1,"by":"x"}`}, []string{"/format", "-1"}},
		{"no number", []string{`/format={}`}, []string{"/format", "format 0"}},
		{"garbage", with("/format=garbage"), []string{"/format", `"garbage"`}},
		{"empty record", with("/format="), []string{"/format", `""`}},
		{"another type", []string{`/format={"format":"1"}`}, []string{"/format", "expected an object"}},
		{"a list", []string{`/format=[1]`}, []string{"/format", "expected an object"}},

		{"foreign", []string{"/kafka", "/kafka/brokers=5", "/zookeeper"}, []string{"not a DistCI tree", "/kafka, /zookeeper"}},
		{"foreign beside ours", append([]string{"/kafka"}, ours...), []string{"not a DistCI tree", "/kafka"}},
		{"a part of ours", []string{"/q", "/jobs"}, []string{"not a DistCI tree", "/jobs, /q"}},
		{"large", []string{"/a", "/b", "/d", "/e", "/f", "/g", "/h", "/i", "/j", "/k", "/l"}, []string{"/a, /b,", "/k, …"}},
	} {
		t.Run(c.what, func(t *testing.T) {
			conn := fresh(t)
			plant(t, conn, c.nodes...)
			before := all(t, conn)
			_, err := Open(t.Context(), conn, nil, queue.Options{})
			after := all(t, conn)
			if len(c.want) == 0 {
				if err != nil {
					t.Fatal(err)
				}
				if f := before["/format"]; f != "" && after["/format"] != f || !strings.Contains(after["/format"], `\"format\":1`) {
					t.Errorf("the number: before %s, after %s", f, after["/format"])
				}
				if before["/jobs/j"] != after["/jobs/j"] {
					t.Errorf("/jobs/j: before %s, after %s", before["/jobs/j"], after["/jobs/j"])
				}
				return
			}
			if fault.Of(err) != fault.Config {
				t.Fatalf("error %v of kind %q", err, fault.Of(err))
			}
			for _, w := range c.want {
				if !strings.Contains(err.Error(), w) {
					t.Errorf("%q does not say %q", err, w)
				}
			}
			if !maps.Equal(before, after) {
				t.Errorf("before:\n%v\nafter:\n%v", before, after)
			}
		})
	}
}

// TestFormatComesFirst: nobody who knows no format sees anything but it in a
// tree that is being made.
func TestFormatComesFirst(t *testing.T) {
	conn := connect(t, filepath.Join(t.TempDir(), "coord.db"))
	if _, err := Open(t.Context(), conn, nil, queue.Options{}); err != nil {
		t.Fatal(err)
	}
	_, first, err := conn.Get(t.Context(), formatPath)
	if err != nil {
		t.Fatal(err)
	}
	names, err := conn.Children(t.Context(), "/")
	if err != nil || len(names) < 2 {
		t.Fatalf("%v, %v", names, err)
	}
	for _, n := range names {
		if _, st, err := conn.Get(t.Context(), "/"+n); err != nil || st.Czxid < first.Czxid {
			t.Errorf("/%s was made by %d, %s by %d: %v", n, st.Czxid, formatPath, first.Czxid, err)
		}
	}
}

// TestFormatRace: many first processes make one tree.
func TestFormatRace(t *testing.T) {
	file := filepath.Join(t.TempDir(), "coord.db")
	var conns []coord.Conn
	for range 8 {
		conns = append(conns, connect(t, file))
	}
	start := make(chan struct{})
	var g sync.WaitGroup
	for _, conn := range conns {
		g.Go(func() {
			<-start
			if _, err := Open(t.Context(), conn, nil, queue.Options{}); err != nil {
				t.Error(err)
			}
		})
	}
	close(start)
	g.Wait()
	if _, st, err := conns[0].Get(t.Context(), formatPath); err != nil || st.Version != 0 {
		t.Errorf("%+v, %v", st, err)
	}
}

// late is a connection to which the tree of another process comes in between:
// its first look finds no number.
type late struct {
	coord.Conn
	before func()
}

func (l *late) Get(ctx context.Context, path string) ([]byte, coord.Stat, error) {
	data, st, err := l.Conn.Get(ctx, path)
	if l.before != nil {
		l.before()
		l.before = nil
	}
	return data, st, err
}

// TestFormatMeanwhile: what another process makes between the look at the
// number and the look at the rest is not taken for a foreign tree, nor is a
// newer one written to.
func TestFormatMeanwhile(t *testing.T) {
	for _, c := range []struct {
		number string
		ok     bool
	}{{"1", true}, {"2", false}} {
		file := filepath.Join(t.TempDir(), "coord.db")
		other := connect(t, file)
		var before map[string]string
		conn := &late{connect(t, file), func() {
			plant(t, other, `/format={"format":`+c.number+`}`, "/q")
			before = all(t, other)
		}}
		_, err := Open(t.Context(), conn, nil, queue.Options{})
		if c.ok != (err == nil) {
			t.Errorf("format %s: %v", c.number, err)
		}
		if !c.ok && !maps.Equal(before, all(t, other)) {
			t.Errorf("format %s: it was written to", c.number)
		}
	}
}
