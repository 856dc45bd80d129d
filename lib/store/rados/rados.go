//go:build ceph && cgo

package rados

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	"github.com/ceph/go-ceph/rados"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// Available tells whether this program was built with librados.
const Available = true

// inFlight bounds the operations at a time, as each holds a thread.
const inFlight = 64

// pool is a store in a pool.
type pool struct {
	address Address
	conn    *rados.Conn
	slots   chan *slot
	wg      sync.WaitGroup // what runs in the background
	closed  sync.Once
	buffers sync.Pool // of *[]byte with chunkSize bytes

	exchange *exchange

	mu    sync.Mutex
	root  []shard         // as it was when it was last read
	tails map[string]tail // what this process appends to

	shardLimit int           // keys in a shard before it is split
	keep       time.Duration // how long the bytes of what was replaced stay
	// hook is told the name of each operation before and after it; for tests.
	hook func(op string)
}

// slot is the right to run one operation. Its contexts are used by one
// operation at a time, so the version of the last operation can be asked for.
type slot struct{ index, data *rados.IOContext }

// Open opens the store at an address; see [ParseAddress]. The errors are of
// kind Config, Denied, or Temporary if there is no answer.
func Open(address string) (store.Store, error) {
	a, err := ParseAddress(address)
	if err != nil {
		return nil, err
	}
	p, err := open(a)
	if err != nil {
		return nil, err // not p: a nil of its type is not nil
	}
	return p, nil
}

func open(a Address) (*pool, error) {
	p := &pool{address: a, slots: make(chan *slot, inFlight), tails: map[string]tail{}, shardLimit: 50_000, keep: 15 * time.Minute}
	p.buffers.New = func() any { b := make([]byte, chunkSize); return &b }
	if err := p.connect(); err != nil {
		p.disconnect()
		return nil, fault.Wrap(fault.Temporary, fmt.Errorf("store/rados: open pool %s: %w", a.Pool, err))
	}
	// Not more than a few operations, each with its own time-out.
	if err := p.makeIndex(context.Background()); err != nil {
		p.disconnect()
		return nil, kind(fmt.Errorf("store/rados: open pool %s: %w", a.Pool, err))
	}
	return p, nil
}

func (p *pool) connect() error {
	a := p.address
	var err error
	if p.conn, err = rados.NewConnWithUser(a.ID); err != nil {
		return fault.Errorf(fault.Config, "client %q: %w", a.ID, err)
	}
	if a.Conf != "" {
		// librados does not tell if it cannot read it.
		if f, err := os.Open(a.Conf); err != nil {
			return fault.Errorf(fault.Config, "read Ceph's configuration: %w", err)
		} else {
			f.Close()
		}
		err = p.conn.ReadConfigFile(a.Conf)
	} else {
		err = p.conn.ReadDefaultConfigFile()
	}
	if err != nil {
		return fault.Errorf(fault.Config, "read Ceph's configuration %s: %w", or(a.Conf, "in /etc/ceph"), err)
	}
	seconds := func(d time.Duration) string { return strconv.FormatFloat(d.Seconds(), 'f', -1, 64) }
	for option, value := range map[string]string{
		// Without them an operation waits for ever.
		"client_mount_timeout": seconds(a.Connect),
		"rados_mon_op_timeout": seconds(a.Timeout),
		"rados_osd_op_timeout": seconds(a.Timeout),
		// After so long without an answer the monitors are asked where the OSD is
		// now. With Ceph's own 10 s no operation that is given up before them would
		// ever find one that was restarted.
		"objecter_timeout":       seconds(min(a.Timeout/2, 3*time.Second)),
		"objecter_tick_interval": "1",
		"keyring":                a.Keyring,
		// What is wrong is in the errors; standard error is ours.
		"log_to_stderr": "false",
		"err_to_stderr": "false",
	} {
		if value == "" {
			continue
		}
		if err := p.conn.SetConfigOption(option, value); err != nil {
			return fault.Errorf(fault.Config, "set %s to %q: %w", option, value, err)
		}
	}
	if err := p.conn.Connect(); err != nil {
		switch code(err) {
		case eNoEntry:
			return fault.Errorf(fault.Config, "no key for client.%s in %s: %w", a.ID, or(a.Keyring, "the keyrings of Ceph's configuration"), err)
		case eAccess, ePermission:
			return fault.Errorf(fault.Denied, "the cluster refuses client.%s: its key is wrong, or not in %s: %w", a.ID, or(a.Keyring, "the keyrings of Ceph's configuration"), err)
		case eTimeout:
			return fault.Errorf(fault.Temporary, "no answer from Ceph's monitors within %v: %w", a.Connect, err)
		}
		return err
	}
	for range inFlight {
		s := &slot{}
		var err error
		if s.index, err = p.context(".index"); err == nil {
			s.data, err = p.context(".data")
		}
		p.slots <- s
		if err != nil {
			return err
		}
	}
	io, err := p.context(".index")
	if err != nil {
		return err
	}
	p.exchange = newExchange(io)
	return nil
}

// context opens one of the store's namespaces.
func (p *pool) context(suffix string) (*rados.IOContext, error) {
	io, err := p.conn.OpenIOContext(p.address.Pool)
	switch {
	case code(err) == eNoEntry:
		return nil, fault.Errorf(fault.Config, "the cluster has no such pool: %w", err)
	case err != nil:
		return nil, err
	}
	io.SetNamespace(p.address.Namespace + suffix)
	// A full pool is an error, not a reason to wait, and can be emptied.
	if err := io.SetPoolFullTry(); err != nil {
		io.Destroy()
		return nil, err
	}
	return io, nil
}

// Close implements [store.Store]. It waits for operations that are under way,
// not longer than their time-out.
func (p *pool) Close() error {
	p.closed.Do(func() {
		p.wg.Wait()
		idle := p.exchange.close(p.address.Timeout)
		for range inFlight {
			(<-p.slots).destroy()
		}
		if idle {
			p.exchange.io.Destroy()
			p.conn.Shutdown()
		}
		close(p.slots)
	})
	return nil
}

func (s *slot) destroy() {
	for _, io := range []*rados.IOContext{s.index, s.data} {
		if io != nil {
			io.Destroy()
		}
	}
}

// disconnect ends a connection that was never used.
func (p *pool) disconnect() {
	close(p.slots)
	for s := range p.slots {
		s.destroy()
	}
	if p.exchange != nil {
		p.exchange.io.Destroy()
	}
	if p.conn != nil {
		p.conn.Shutdown()
	}
}

// small is the size up to which a buffer is not worth keeping.
const small = 64 << 10

// buffer returns a buffer of at least n bytes, n at most chunkSize.
func (p *pool) buffer(n int64) *[]byte {
	if n <= small {
		b := make([]byte, n)
		return &b
	}
	return p.buffers.Get().(*[]byte)
}

// recycle takes a buffer back that nobody uses.
func (p *pool) recycle(b *[]byte) {
	if len(*b) == chunkSize {
		p.buffers.Put(b)
	}
}

// result is what an operation returned.
type result[T any] struct {
	value T
	err   error
}

// call runs an operation. librados knows no contexts: when ctx is done, call
// returns at once with an *abandoned, and the operation goes on by itself. It
// must not use memory that its caller may use again.
func call[T any](ctx context.Context, p *pool, op string, f func(*slot) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	var s *slot
	var ok bool
	select {
	case s, ok = <-p.slots:
		if !ok {
			return none, errClosed
		}
	case <-ctx.Done():
		return none, ctx.Err()
	}
	done := make(chan result[T], 1)
	go func() {
		if p.hook != nil {
			p.hook(op)
		}
		value, err := f(s)
		var of rados.OperationError
		if errors.As(err, &of) && of.OpError != nil {
			err = of.OpError // the rest repeats it
		}
		if p.hook != nil {
			p.hook(op)
		}
		p.slots <- s
		done <- result[T]{value, err}
	}()
	select {
	case r := <-done:
		return r.value, r.err
	case <-ctx.Done():
		return none, &abandoned{ctx.Err()}
	}
}

// do is call for an operation that returns nothing.
func (p *pool) do(ctx context.Context, op string, f func(*slot) error) error {
	_, err := call(ctx, p, op, func(s *slot) (struct{}, error) { return struct{}{}, f(s) })
	return err
}

// write runs a write operation. It is put together before, which copies the
// bytes.
func (p *pool) write(ctx context.Context, name string, op *rados.WriteOp, context func(*slot) *rados.IOContext, object string) (version uint64, err error) {
	v, err := call(ctx, p, name, func(s *slot) (uint64, error) {
		defer op.Release()
		if err := op.Operate(context(s), object, rados.OperationNoFlag); err != nil {
			return 0, err
		}
		return context(s).GetLastVersion()
	})
	if notRun(err) {
		op.Release()
	}
	return v, err
}

func index(s *slot) *rados.IOContext { return s.index }
func data(s *slot) *rados.IOContext  { return s.data }

// background runs what nobody waits for, except Close.
func (p *pool) background(f func(ctx context.Context)) {
	p.wg.Go(func() {
		ctx, stop := context.WithTimeout(context.Background(), p.address.Timeout)
		defer stop()
		f(ctx)
	})
}

func or(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}
