//go:build ceph && cgo

package rados

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
	cephtest "github.com/distci/distci/test/ceph"
	"github.com/distci/distci/test/lab"
)

// follow waits until c tells of a change, while it makes changes; a watch that
// has ended is begun again. It returns what is watched at the end.
func follow(t *testing.T, p, writer *pool, c <-chan struct{}) <-chan struct{} {
	t.Helper()
	told := false
	lab.Until(t, "told of a change", func() bool {
		if c == nil {
			c, _ = p.Watch(t.Context(), "log")
		}
		if _, err := writer.Put(t.Context(), "log", strings.NewReader("x")); err != nil && fault.Of(err) != fault.Temporary {
			t.Fatal(err)
		}
		select {
		case _, open := <-c:
			if told = open; !open {
				c = nil
			}
		default:
		}
		return told
	})
	return c
}

// TestWatchLost: a watch that Ceph has dropped ends, and can be begun again; so
// can one whose cluster was away. While it is away Watch and Close return.
func TestWatchLost(t *testing.T) {
	c := cephtest.Start(t, cephtest.Options{})
	open := func() *pool {
		p, err := open(mustParse(t, c.Address("watch", "timeout", "3s")))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { p.Close() })
		return p
	}
	p, writer := open(), open()
	told, err := p.Watch(t.Context(), "log")
	if err != nil {
		t.Fatal(err)
	}
	told = follow(t, p, writer, told)

	topic, _ := p.exchange.topic("log")
	if out, err := c.Rados("-p", cephtest.Pool, "-N", "watch.index", "rm", topic.name); err != nil {
		t.Fatal(out, err)
	}
	for range told { // Ceph says that it is gone
	}
	told = follow(t, p, writer, nil)

	c.Kill("osd.0")
	c.StartDaemon("osd.0")
	if err := c.Await(); err != nil {
		t.Fatal(err)
	}
	follow(t, p, writer, told)

	// Another topic, which is not watched yet.
	key := "log"
	for i := 0; ; i++ {
		key = strings.Repeat("k", i+1)
		if other, _ := p.exchange.topic(key); other != topic {
			break
		}
	}
	c.Pause("osd.0")
	for range 2 {
		if _, err := p.Watch(t.Context(), key); !errors.Is(err, errNotWatching) {
			t.Errorf("watch in a frozen cluster: %v", err)
		}
	}
	writer.tell(key)
	if err := writer.Close(); err != nil {
		t.Errorf("close in a frozen cluster: %v", err)
	}
	c.Resume("osd.0")
	lab.Until(t, "watched again", func() bool {
		_, err := p.Watch(t.Context(), key)
		return err == nil
	})
}

// TestManyChanges: a writer does not wait for notifications, of which there are
// fewer than changes, and none is forgotten.
func TestManyChanges(t *testing.T) {
	c := cephtest.Start(t, cephtest.Options{})
	p, err := open(mustParse(t, c.Address("many")))
	if err != nil {
		t.Fatal(err)
	}
	defer p.Close()
	told, err := p.Watch(t.Context(), "log")
	if err != nil {
		t.Fatal(err)
	}
	const lines = 500
	done := make(chan error, 1)
	go func() {
		var err error
		for i := range int64(lines) {
			err = errors.Join(err, p.Append(t.Context(), "log", i*5, []byte("line\n")))
		}
		done <- err
	}()
	size, times := int64(0), 0
	for size < 5*lines {
		if _, open := <-told; !open {
			t.Fatal("the watch has ended")
		}
		times++
		info, err := p.Stat(t.Context(), "log")
		if err != nil {
			t.Fatal(err)
		}
		size = info.Size
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	t.Logf("told %d times of %d changes", times, lines)
	// More keys than a notification names.
	for range named + 1 {
		topic, hash := p.exchange.topic("log")
		topic.mu.Lock()
		topic.pending[hash+uint64(len(topic.pending))*topics] = true
		topic.mu.Unlock()
	}
	if _, err := p.Put(t.Context(), "log", bytes.NewReader(nil)); err != nil {
		t.Fatal(err)
	}
	<-told
}

func mustParse(t *testing.T, address string) Address {
	t.Helper()
	a, err := ParseAddress(address)
	if err != nil {
		t.Fatal(err)
	}
	return a
}
