package main

import (
	"fmt"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/artifact"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/tool"
)

// download brings a build's artefacts here.
func download(e env, fs *pflag.FlagSet) int {
	output := fs.StringP("output", "o", "", "the folder, or the archive (.zip, .tar.zst), as `PATH` (default: a folder JOB-BUILD)")
	parallel := fs.Uint8("parallel", 4, "fetch `N` files at the same time")
	connect := connection(fs)
	if status, ok := e.parse(fs, 2, 1000); !ok {
		return status
	}
	n, err := number(fs.Arg(1))
	if err != nil {
		return e.fail(err)
	}
	if *parallel == 0 {
		return e.fail(fault.Errorf(fault.Usage, "--parallel: at least one"))
	}
	c, done, err := connect(e)
	if err != nil {
		return e.fail(err)
	}
	defer done()
	job := fs.Arg(0)
	if *output == "" {
		*output = fmt.Sprintf("%s-%d", job, n)
	}
	o := artifact.DownloadOptions{Output: *output, Globs: fs.Args()[2:], Jobs: int(*parallel), Log: tool.NewLog(name, e.stderr)}
	return e.fail(artifact.Download(e.ctx, o, &artifact.Server{Client: c, Job: job, Build: n}))
}
