// Package stdio connects a child process's streams with those of a
// [sandbox.Spec], for the adapters.
package stdio

import (
	"io"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/distci/distci/lib/sandbox"
)

// lastResort is how long a pipe without data is still read when everything
// that we know of has ended. Only a process beyond our reach can have it open.
const lastResort = 2 * time.Second

// Streams carries data between a program's pipes and its Spec. It copies by
// itself because [exec.Cmd.Wait] would wait for the pipes' end before what
// holds them open is killed.
type Streams struct {
	Files  [3]*os.File // the program's standard input, output and error
	theirs []*os.File  // of Files, those to be closed here once the program has them
	stdin  *os.File    // our end, or nil
	source io.Reader
	out    []*output
	wg     sync.WaitGroup
	input  chan struct{} // closed when the source is no longer read
}

type output struct {
	pipe    *os.File
	to      io.Writer
	closing atomic.Bool
}

// Connect makes the program's ends of its streams, Files. Without an error,
// Started and Finish must follow.
func Connect(spec sandbox.Spec) (s *Streams, err error) {
	s = &Streams{input: make(chan struct{})}
	defer func() {
		if err != nil {
			s.Started()
			s.Finish()
		}
	}()
	if s.Files[0], err = s.inputOf(spec.Stdin); err != nil {
		return s, err
	}
	if s.Files[1], err = s.outputTo(spec.Stdout); err != nil {
		return s, err
	}
	if spec.Stdout != nil && equal(spec.Stdout, spec.Stderr) {
		s.Files[2] = s.Files[1] // one pipe keeps the order, and calls Write from one goroutine
		return s, nil
	}
	s.Files[2], err = s.outputTo(spec.Stderr)
	return s, err
}

func (s *Streams) inputOf(from io.Reader) (*os.File, error) {
	if from == nil {
		return s.null(os.O_RDONLY)
	}
	if f, ok := from.(*os.File); ok {
		return f, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.theirs = append(s.theirs, r)
	s.stdin, s.source = w, from
	return r, nil
}

func (s *Streams) outputTo(to io.Writer) (*os.File, error) {
	if to == nil {
		return s.null(os.O_WRONLY)
	}
	if f, ok := to.(*os.File); ok {
		return f, nil
	}
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	s.theirs = append(s.theirs, w)
	s.out = append(s.out, &output{pipe: r, to: to})
	return w, nil
}

func (s *Streams) null(flag int) (*os.File, error) {
	f, err := os.OpenFile(os.DevNull, flag, 0)
	if err == nil {
		s.theirs = append(s.theirs, f)
	}
	return f, err
}

// equal is a == b for writers of any type, also those that have no equality.
func equal(a, b io.Writer) bool {
	defer func() { recover() }()
	return a == b
}

// Started begins to copy. It is called when the program has Files, or could
// not get them.
func (s *Streams) Started() {
	for _, f := range s.theirs {
		f.Close()
	}
	go func() {
		defer close(s.input)
		if s.stdin != nil {
			io.Copy(s.stdin, s.source) // a program need not read all
			s.stdin.Close()
		}
	}()
	for _, o := range s.out {
		s.wg.Go(o.copy)
	}
}

// Finish waits until all output is written. The source of the input is not
// waited for much longer, as nobody can interrupt its Read.
func (s *Streams) Finish() {
	for _, o := range s.out {
		o.closing.Store(true)
		o.pipe.SetReadDeadline(time.Now().Add(lastResort))
	}
	if s.stdin != nil {
		s.stdin.Close()
	}
	s.wg.Wait()
	select {
	case <-s.input:
	case <-time.After(lastResort):
	}
}

// copy copies until the end of the pipe. When the program has ended, what the
// pipe holds is copied, and what somebody else still writes is not.
func (o *output) copy() {
	defer o.pipe.Close()
	buf := make([]byte, 32<<10)
	rest := 1 << 20 // the most that a pipe can hold, unless root says otherwise
	broken := false
	for rest > 0 {
		n, err := o.pipe.Read(buf)
		if err != nil {
			return
		}
		if !broken {
			_, err := o.to.Write(buf[:n])
			broken = err != nil
		}
		if o.closing.Load() {
			rest -= n
			o.pipe.SetReadDeadline(time.Now().Add(lastResort)) // the Write may have taken long
		}
	}
}
