package main

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/observe"
	"github.com/distci/distci/lib/tool"
)

// observation is how somebody wants to look at this worker.
type observation struct{ metrics, file, trace *string }

func observeFlags(fs *pflag.FlagSet) observation {
	return observation{
		metrics: fs.String("metrics", "", "serve metrics for Prometheus at `ADDRESS`, a loopback host:port or unix:/path; port 0: a free one"),
		file:    fs.String("metrics-file", "", "at the end add the metrics to `FILE`, for the textfile collector of node_exporter"),
		trace:   tool.Setting(fs, "trace", "trace", "", "export traces of builds by OTLP over HTTP to the collector at `URL`; also by OTEL_EXPORTER_OTLP_ENDPOINT"),
	}
}

// goodbye is how long the worker waits for its observer to say the last; it
// says it anyway.
const goodbye = time.Second

// open starts what is needed. Without a wish for it the sink is nil, and nothing
// is done. The function that it returns ends it.
func (o observation) open(log *slog.Logger, stderr io.Writer) (sink observe.Sink, traced bool, end func(), err error) {
	end = func() {}
	asked := *o.metrics != "" || *o.file != "" || *o.trace != ""
	env := os.Environ()
	if *o.trace != "" {
		env = append(env, "OTEL_EXPORTER_OTLP_ENDPOINT="+*o.trace, "OTEL_SDK_DISABLED=false")
	}
	if traced = *o.trace != "" || observe.Traced(os.Getenv); !asked && !traced {
		return nil, false, end, nil
	}
	program, err := observe.Observer()
	if err != nil && !asked { // the machine wants it of everybody
		log.Warn("no traces: " + err.Error())
		return nil, false, end, nil
	}
	if err != nil {
		return nil, false, end, err
	}
	cmd := exec.Command(program, "--program", name, "--pid", fmt.Sprint(os.Getpid()))
	cmd.Env, cmd.Stderr = env, stderr
	if traced {
		cmd.Args = append(cmd.Args, "--trace")
	}
	if *o.file != "" {
		file, err := filepath.Abs(*o.file)
		if err != nil {
			return nil, false, end, fault.Errorf(fault.Config, "--metrics-file: %w", err)
		}
		cmd.Args = append(cmd.Args, "--file", file)
	}
	if *o.metrics != "" {
		f, err := listen(*o.metrics, log)
		if err != nil {
			return nil, false, end, fmt.Errorf("--metrics: %w", err)
		}
		cmd.ExtraFiles, cmd.Args = []*os.File{f}, append(cmd.Args, "--listen-fd", "3")
	}
	pipe := observe.NewPipe(cmd, log)
	if *o.metrics != "" {
		pipe.Start()
	}
	return pipe.Tell, traced, func() { pipe.Close(goodbye) }, nil
}

// listen opens the socket that the observer serves, so that what is wrong with
// the address is told at once.
func listen(address string, log *slog.Logger) (*os.File, error) {
	l, err := observe.Listen(address)
	if err != nil {
		return nil, err
	}
	log.Info("serving metrics at " + l.Addr().String())
	if u, ok := l.(*net.UnixListener); ok {
		u.SetUnlinkOnClose(false) // it is the observer's now
	}
	defer l.Close()
	return l.(interface{ File() (*os.File, error) }).File()
}
