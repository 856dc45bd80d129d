package coordtest

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/distci/distci/lib/coord"
	"github.com/distci/distci/test/lab"
)

// The environment of the test binary when it is run as another process.
const (
	envRole    = "COORDTEST_ROLE"
	envSpec    = "COORDTEST_SPEC"
	envTimeout = "COORDTEST_TIMEOUT"
)

// Main is the adapter's TestMain: it runs the tests, or plays the role that a
// test of another process gave to this one.
func Main(m *testing.M, open Open) {
	role := os.Getenv(envRole)
	if role == "" {
		os.Exit(m.Run())
	}
	if err := play(role, open); err != nil {
		fmt.Fprintf(os.Stderr, "%s: %v\n", role, err)
		os.Exit(1)
	}
	os.Exit(0)
}

// play opens a connection and does what its role says. A role answers each
// line of standard input with one line.
func play(role string, open Open) error {
	timeout, err := time.ParseDuration(os.Getenv(envTimeout))
	if err != nil {
		return err
	}
	ctx := context.Background()
	c, err := open(ctx, os.Getenv(envSpec), timeout)
	if err != nil {
		return err
	}
	roles := map[string]func(context.Context, coord.Conn) error{
		"count": playCount, "pair": playPair, "set": playSet, "hold": playHold,
	}
	if err := roles[role](ctx, c); err != nil {
		return err
	}
	return c.Close()
}

// playCount increments /n by compare-and-set, as often as the line says.
func playCount(ctx context.Context, c coord.Conn) error {
	return answer(func(line string) (string, error) {
		n, err := strconv.Atoi(line)
		for range n {
			if err = increment(ctx, c); err != nil {
				break
			}
		}
		return "done", err
	})
}

// increment adds one to the number in /n, and tries again if a rival was
// faster.
func increment(ctx context.Context, c coord.Conn) error {
	for {
		data, stat, err := c.Get(ctx, "/n")
		if err != nil {
			return err
		}
		n, err := strconv.Atoi(string(data))
		if err != nil {
			return err
		}
		_, err = c.Txn(ctx, coord.Set("/n", []byte(strconv.Itoa(n+1)), stat.Version))
		if !errors.Is(err, coord.ErrBadVersion) {
			return err
		}
	}
}

// playPair changes /a and /b for ever, always together, and beside them makes
// and removes /c; it says so once it has begun.
func playPair(ctx context.Context, c coord.Conn) error {
	fmt.Println("begun")
	for i := 0; ; i++ {
		data := []byte(fmt.Sprintf("%d-%d", os.Getpid(), i))
		ops := []coord.Op{coord.Set("/a", data, coord.AnyVersion), coord.Create("/c", data), coord.Set("/b", data, coord.AnyVersion)}
		if _, _, err := c.Get(ctx, "/c"); err == nil {
			ops[1] = coord.Delete("/c", coord.AnyVersion)
		}
		if _, err := c.Txn(ctx, ops...); err != nil {
			return err
		}
	}
}

// playSet sets /n to each line.
func playSet(ctx context.Context, c coord.Conn) error {
	return answer(func(line string) (string, error) {
		_, err := c.Txn(ctx, coord.Set("/n", []byte(line), coord.AnyVersion))
		return "set", err
	})
}

// playHold claims /ticket, as a worker does, and says so. On each line it tries
// to commit to it by the version that its claim gave it, and tells whether its
// claim was safe before, whether it was refused, and whether its session has
// become another one.
func playHold(ctx context.Context, c coord.Conn) error {
	if err := coord.EnsurePath(ctx, c, "/ticket"); err != nil {
		return err
	}
	stats, err := c.Txn(ctx, coord.CreateEphemeral("/claim", nil), coord.Set("/ticket", []byte("claimed"), coord.AnyVersion))
	if err != nil {
		return err
	}
	held := c.Session()
	fmt.Println("held")
	return answer(func(string) (string, error) {
		safe := time.Now().Before(held.SafeUntil())
		if s := c.Session(); s.ID == held.ID {
			safe = time.Now().Before(s.SafeUntil())
		}
		_, commit := c.Txn(ctx, coord.Set("/ticket", []byte("committed by a stale holder"), stats[1].Version))
		for end := time.Now().Add(time.Minute); c.Session().ID == held.ID && time.Now().Before(end); {
			time.Sleep(5 * time.Millisecond)
		}
		return fmt.Sprintf("safe=%v refused=%v other=%v", safe, commit != nil, c.Session().ID != held.ID), nil
	})
}

func answer(fn func(line string) (string, error)) error {
	in := bufio.NewScanner(os.Stdin)
	for in.Scan() {
		out, err := fn(in.Text())
		if err != nil {
			return err
		}
		fmt.Println(out)
	}
	return in.Err()
}

// process is another process of the test.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	in  io.WriteCloser
	out *bufio.Reader
}

// spawn runs the test binary in a role.
func (s *service) spawn(role string, timeout time.Duration) *process {
	s.t.Helper()
	exe, err := os.Executable()
	if err != nil {
		s.t.Fatal(err)
	}
	p := &process{t: s.t, cmd: exec.Command(exe)}
	p.cmd.Env = append(os.Environ(), envRole+"="+role, envSpec+"="+s.spec, envTimeout+"="+timeout.String())
	p.cmd.Stderr = os.Stderr
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		s.t.Fatal(err)
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		s.t.Fatal(err)
	}
	p.out = bufio.NewReader(out)
	if err := p.cmd.Start(); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(p.kill)
	return p
}

// hold starts a process that holds the claim on /ticket. It knows that it does,
// and so does c.
func (s *service) hold(c client) *process {
	s.t.Helper()
	p := s.spawn("hold", s.Timeout)
	if got := p.hear(); got != "held" {
		s.t.Fatalf("the holder says %q", got)
	}
	lab.Until(s.t, "the claim", func() bool { return c.exists("/claim") })
	return p
}

// tell gives the process a line.
func (p *process) tell(line string) {
	p.t.Helper()
	if _, err := io.WriteString(p.in, line+"\n"); err != nil {
		p.t.Fatalf("tell %q: %v", line, err)
	}
}

// hear waits for the process to say a line.
func (p *process) hear() string {
	p.t.Helper()
	line, err := p.out.ReadString('\n')
	if err != nil {
		p.t.Fatalf("the other process said nothing: %v", err)
	}
	return strings.TrimSpace(line)
}

// kill kills the process without a warning and waits for its end.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// end lets the process end in order.
func (p *process) end() {
	p.t.Helper()
	p.in.Close()
	if err := p.cmd.Wait(); err != nil {
		p.t.Errorf("the other process: %v", err)
	}
}
