package observe

import (
	"bufio"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/distci/distci/lib/fault"
)

// queued is how many events may wait for the observer. What is more is lost,
// and counted: a step does not wait for whoever looks at it.
const queued = 8192

// Pipe is a distci-observe, a process that gets our events, one JSON object a
// line, and knows what to do with them. Nothing that becomes of it is an error
// of ours.
type Pipe struct {
	Command *exec.Cmd // not started; what it needs besides its input

	log *slog.Logger

	events  chan Event
	dropped atomic.Int64
	start   sync.Once
	closing sync.RWMutex // events are sent under it
	closed  bool
	ended   chan struct{} // closed when the process has ended, and all is told
}

// Observer finds the program that is at the other end of a [Pipe], where make
// and where make install put it. The error is of kind Config.
func Observer() (string, error) {
	self, err := os.Executable()
	if err == nil {
		self, err = filepath.EvalSymlinks(self)
	}
	if err != nil {
		return "", fault.Errorf(fault.Config, "observe: %w", err)
	}
	dir := filepath.Dir(self)
	places := []string{filepath.Join(dir, "libexec", program), filepath.Join(dir, "..", "libexec", "distci", program), filepath.Join(dir, program)}
	for _, p := range places {
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() {
			return p, nil
		}
	}
	return "", fault.Errorf(fault.Config, "observe: there is no %s: it belongs to %s", program, strings.Join(places[:2], " or "))
}

const program = "distci-observe"

// NewPipe makes a pipe to a program, which is started with the first event.
func NewPipe(cmd *exec.Cmd, log *slog.Logger) *Pipe {
	return &Pipe{Command: cmd, log: log, events: make(chan Event, queued), ended: make(chan struct{})}
}

// Start starts the observer now, because it has something to serve.
func (p *Pipe) Start() { p.start.Do(func() { go p.run() }) }

// Tell is a [Sink].
func (p *Pipe) Tell(e Event) {
	p.closing.RLock()
	defer p.closing.RUnlock()
	if p.closed {
		return
	}
	p.Start()
	select {
	case p.events <- e:
	default:
		p.dropped.Add(1)
	}
}

// Close passes on what is left and waits for the observer to end, but no longer
// than patience: it goes on by itself, and so do we.
func (p *Pipe) Close(patience time.Duration) {
	p.closing.Lock()
	if !p.closed {
		p.closed = true
		p.start.Do(func() { close(p.ended) }) // nothing was ever said
		close(p.events)
	}
	p.closing.Unlock()
	select {
	case <-p.ended:
	case <-time.After(patience):
		p.log.Debug("the observer goes on by itself")
	}
}

// run is the other process's life.
func (p *Pipe) run() {
	defer close(p.ended)
	err := p.feed()
	for range p.events { // nobody is there any more
		p.dropped.Add(1)
	}
	if err != nil {
		p.log.Warn("this process is not observed any more: " + err.Error())
	}
}

func (p *Pipe) feed() error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	cmd := p.Command
	cmd.Stdin = r
	// In a group of its own a ^C that is meant for us does not end it: it ends
	// when it has passed on all that we have said. In our session it is not
	// taken for what a step has left.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	err = cmd.Start()
	r.Close()
	for _, f := range cmd.ExtraFiles { // they are the other's now
		f.Close()
	}
	if err != nil {
		w.Close()
		return err
	}
	writeErr := p.write(w)
	w.Close()
	if err := cmd.Wait(); err != nil {
		return fmt.Errorf("%s: %w", cmd.Path, err)
	}
	return writeErr
}

// write writes events until there are no more, or nobody reads them.
func (p *Pipe) write(w io.Writer) error {
	b := bufio.NewWriterSize(w, 32<<10)
	enc := json.NewEncoder(b)
	for e := range p.events {
		e.Dropped = p.dropped.Swap(0)
		if err := enc.Encode(e); err != nil {
			return err
		}
		if len(p.events) == 0 {
			if err := b.Flush(); err != nil {
				return err
			}
		}
	}
	return b.Flush()
}

// Read calls do for each event that a [Pipe] writes, until its end. A line that
// is no event is an error.
func Read(r io.Reader, do func(Event)) error {
	dec := json.NewDecoder(bufio.NewReaderSize(r, 64<<10))
	for {
		var e Event
		err := dec.Decode(&e)
		if err == io.EOF || err == io.ErrUnexpectedEOF { // a killed process leaves half a line
			return nil
		}
		if err != nil {
			return fault.Errorf(fault.BadTicket, "events: %w", err)
		}
		do(e)
	}
}
