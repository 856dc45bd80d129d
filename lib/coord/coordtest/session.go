package coordtest

import (
	"context"
	"errors"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/test/lab"
)

func testEphemeralClose(t *testing.T, s *service) {
	c, other := s.open(long), s.open(long)
	c.do(coord.CreateEphemeral("/e", []byte("x")), coord.Create("/p", nil), coord.CreateEphemeral("/p/f", nil))
	if data, stat := c.get("/e"); data != "x" || stat.Owner != c.Session().ID {
		t.Errorf("the node holds %q and belongs to %d, session %d", data, stat.Owner, c.Session().ID)
	}
	other.do(coord.CreateEphemeral("/others", nil))
	other.refused(0, coord.ErrNodeExists, coord.CreateEphemeral("/e", nil))
	if c.Session().ID == other.Session().ID {
		t.Error("two connections have one session")
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	lab.Until(t, "the ephemeral nodes to go", func() bool { return !other.exists("/e") && !other.exists("/p/f") })
	if !other.exists("/p") || !other.exists("/others") {
		t.Error("more went than the session's ephemeral nodes")
	}
	if _, stat := other.get("/p"); stat.NumChildren != 0 {
		t.Errorf("the parent counts %d children", stat.NumChildren)
	}
	other.do(coord.CreateEphemeral("/e", nil))
	// Deleting one by hand is the holder's or anybody's right.
	other.do(coord.Delete("/e", 0), coord.Create("/e", nil))
}

func testEphemeralParent(t *testing.T, s *service) {
	c := s.open(long)
	c.do(coord.CreateEphemeral("/e", nil))
	c.refused(0, coord.ErrEphemeral, coord.Create("/e/child", nil))
	c.refused(0, coord.ErrEphemeral, coord.CreateEphemeral("/e/child", nil))
	c.refused(1, coord.ErrEphemeral, coord.CreateEphemeral("/f", nil), coord.Create("/f/child", nil))
}

// testEphemeralKilled kills the owner: its nodes go, but not before its
// session has been silent for its time-out.
func testEphemeralKilled(t *testing.T, s *service) {
	c := s.open(long)
	p := s.hold(c)
	// Twice the time-out: it is renewed. Whoever looked saw it all the time.
	for end := time.Now().Add(2 * s.Timeout); time.Now().Before(end); time.Sleep(5 * time.Millisecond) {
		if !c.exists("/claim") {
			t.Fatal("the claim went while its owner lived")
		}
	}
	killed := time.Now()
	p.kill()
	lab.Until(t, "the claim to go", func() bool { return !c.exists("/claim") })
	// Its last renewal was at most half a time-out old, by any adapter.
	if d := time.Since(killed); d < s.Timeout/4 {
		t.Errorf("the claim went %v after its owner, whose session is %v", d, s.Timeout)
	}
}

// testSessionKept asserts what the session says of itself while nothing
// happens but its own renewals.
func testSessionKept(t *testing.T, s *service) {
	c := s.open(s.Timeout)
	first := c.Session()
	if first.ID == 0 || first.Timeout <= 0 || time.Now().After(first.SafeUntil()) || first.Renewed.After(time.Now()) {
		t.Fatalf("a new session: %+v", first)
	}
	lab.Until(t, "two renewals", func() bool { return c.Session().Renewed.Sub(first.Renewed) > first.Timeout })
	if now := c.Session(); now.ID != first.ID {
		t.Errorf("session %d became %d though it was renewed", first.ID, now.ID)
	}
}

// testFencing plays two workers at one ticket: the number of the claim grows,
// and what the first one knew is refused.
func testFencing(t *testing.T, s *service) {
	a, b := s.open(long), s.open(long)
	a.do(coord.Create("/ticket", nil), coord.Create("/elsewhere", nil))
	var last int64
	claim := func(c client) coord.Stat {
		t.Helper()
		stats := c.do(coord.CreateEphemeral("/claim", nil), coord.Set("/ticket", nil, coord.AnyVersion))
		if stats[0].Czxid != stats[1].Mzxid {
			t.Errorf("the claim has number %d, the ticket %d", stats[0].Czxid, stats[1].Mzxid)
		}
		if stats[1].Mzxid <= last {
			t.Errorf("number %d after %d", stats[1].Mzxid, last)
		}
		last = stats[1].Mzxid
		return stats[1]
	}
	first := claim(a)
	b.refused(0, coord.ErrNodeExists, coord.CreateEphemeral("/claim", nil), coord.Set("/ticket", nil, coord.AnyVersion))
	if stat := b.do(coord.Set("/elsewhere", nil, 0))[0]; stat.Mzxid <= last {
		t.Errorf("elsewhere in the tree: number %d after %d", stat.Mzxid, last)
	} else {
		last = stat.Mzxid
	}
	b.do(coord.Delete("/claim", coord.AnyVersion))
	second := claim(b)
	if second.Version != first.Version+1 {
		t.Errorf("version %d after %d", second.Version, first.Version)
	}
	a.refused(0, coord.ErrBadVersion, coord.Delete("/ticket", first.Version), coord.Delete("/claim", 0))
	a.refused(0, coord.ErrBadVersion, coord.Set("/ticket", nil, first.Version))
	if !b.exists("/claim") {
		t.Error("a stale worker removed the claim of its rival")
	}
	b.do(coord.Delete("/ticket", second.Version), coord.Delete("/claim", 0))
}

// testPaused stops the holder of a claim until its session is over. When it
// wakes up it must know, and it can commit nothing.
func testPaused(t *testing.T, s *service) {
	c := s.open(long)
	p := s.hold(c)
	p.cmd.Process.Signal(syscall.SIGSTOP)
	lab.Until(t, "the claim to go", func() bool { return !c.exists("/claim") })
	_, before := c.get("/ticket")
	c.do(coord.CreateEphemeral("/claim", nil), coord.Set("/ticket", []byte("rival"), before.Version))
	p.tell("go on")
	p.cmd.Process.Signal(syscall.SIGCONT)
	if got, want := p.hear(), "safe=false refused=true other=true"; got != want {
		t.Errorf("the holder that woke up: %s; want %s", got, want)
	}
	if data, _ := c.get("/ticket"); data != "rival" {
		t.Errorf("the ticket says %q", data)
	}
	if _, stat := c.get("/claim"); stat.Owner != c.Session().ID {
		t.Error("the rival's claim is not its own any more")
	}
	p.end()
}

// testCounter lets two processes, and goroutines of this one, increment a
// number: no update may be lost.
func testCounter(t *testing.T, s *service) {
	const each = 150
	c := s.open(long)
	c.do(coord.Create("/n", []byte("0")))
	ps := []*process{s.spawn("count", long), s.spawn("count", long)}
	for _, p := range ps {
		p.tell(strconv.Itoa(each))
	}
	var all sync.WaitGroup
	for range 2 {
		all.Go(func() {
			for range each {
				if err := increment(context.Background(), c); err != nil {
					t.Errorf("increment: %v", err)
				}
			}
		})
	}
	all.Wait()
	for _, p := range ps {
		if got := p.hear(); got != "done" {
			t.Errorf("the other process says %q", got)
		}
		p.end()
	}
	if data, stat := c.get("/n"); data != strconv.Itoa(4*each) || stat.Version != 4*each {
		t.Errorf("%d increments made %s, version %d", 4*each, data, stat.Version)
	}
}

// testKillMinusNine kills writers at any moment of their transactions: all of
// each is there, or nothing.
func testKillMinusNine(t *testing.T, s *service) {
	c := s.open(long)
	c.do(coord.Create("/a", nil), coord.Create("/b", nil))
	written := map[string]bool{}
	for i := range 25 {
		p := s.spawn("pair", s.Timeout)
		p.hear()
		_, start := c.get("/a")
		// At least some transactions, and each time a few more.
		lab.Until(t, "transactions", func() bool {
			_, now := c.get("/a")
			return now.Version > start.Version+int32(i)
		})
		p.kill()
		a, statA, b, statB, made := c.pair()
		if a != b || statA.Mzxid != statB.Mzxid || statA.Version != statB.Version {
			t.Fatalf("half a transaction: /a %q (%+v), /b %q (%+v)", a, statA, b, statB)
		}
		// Each process finds no /c, makes it with number 0 and every even one.
		number, err := strconv.Atoi(a[strings.IndexByte(a, '-')+1:])
		if err != nil {
			t.Fatal(err)
		}
		if made != (number%2 == 0) {
			t.Fatalf("half a transaction: number %d, /c there: %v", number, made)
		}
		if written[a] {
			t.Fatalf("%q came back", a)
		}
		written[a] = true
	}
}

// pair reads what playPair writes, and clears it for the next writer, which
// shows that no lock or damaged log hinders anybody. The last transaction of a
// process that was killed may still be on its way, so what is read counts only
// if it was the same when it was cleared.
func (c client) pair() (a string, statA coord.Stat, b string, statB coord.Stat, made bool) {
	c.t.Helper()
	for {
		a, statA = c.get("/a")
		b, statB = c.get("/b")
		ops := []coord.Op{coord.Set("/a", nil, statA.Version), coord.Set("/b", nil, statB.Version)}
		if made = c.exists("/c"); made {
			ops = append(ops, coord.Delete("/c", coord.AnyVersion))
		} else {
			ops = append(ops, coord.Create("/c", nil), coord.Delete("/c", 0))
		}
		_, err := c.Txn(context.Background(), ops...)
		if err == nil {
			return a, statA, b, statB, made
		}
		var refused *coord.TxnError
		if !errors.As(err, &refused) {
			c.t.Fatalf("txn: %v", err)
		}
	}
}
