package main

import (
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/image"
	"github.com/distci/distci/lib/sandbox"
	"github.com/distci/distci/lib/sandbox/lxc"
	"github.com/distci/distci/lib/sandbox/plain"
	"github.com/distci/distci/lib/secret"
	"github.com/distci/distci/lib/tool"
	"github.com/distci/distci/lib/worker"
)

// sandboxOptions say in what steps run.
type sandboxOptions struct {
	kind, image, images, grants *string
	networks, secrets           *string
	memory, disk                *int64
	cpus                        *float64
	processes                   *int
}

func sandboxFlags(fs *pflag.FlagSet) *sandboxOptions {
	return &sandboxOptions{
		kind:      tool.Setting(fs, "sandbox", "sandbox", "", "run steps in `KIND`: lxc, plain, or auto: lxc if that is possible here (default: auto, if there is an image)"),
		image:     tool.Setting(fs, "image", "image", "", "the image of steps that name none (`NAME`, see distci-lxc-image(1))"),
		images:    tool.Setting(fs, "images", "images", image.DefaultDir(), "`FOLDER` of the images"),
		grants:    tool.Setting(fs, "grants", "grants", "", "`FILE` that says which types of tickets get more than the workspace in a container"),
		networks:  tool.Setting(fs, "network", "network", "", "the `NETWORKS` that a step in a container may ask for: bridge, bridge:NAME, host; separated by commas"),
		secrets:   tool.Setting(fs, "secrets", "secrets", "", "`FOLDER` of the secrets that steps may ask for: JOB_ID/NAME, or _all/NAME for all jobs"),
		memory:    fs.Int64("memory", 0, "a step in a container may use so many `BYTES` of memory; 0 is no limit"),
		disk:      fs.Int64("disk", 0, "a step in a container may change so many `BYTES` of its root file system and its workspace; 0 is no limit"),
		cpus:      fs.Float64("cpus", 0, "a step in a container may use so many `PROCESSORS`; 0 is no limit"),
		processes: fs.Int("pids", defaultProcesses(), "a step in a container may have so many processes and threads (`N`); 0 is no limit"),
	}
}

// defaultProcesses limits nothing for other users than root: on most machines
// they cannot, and a limit that cannot be set is an error.
func defaultProcesses() int {
	if os.Geteuid() == 0 {
		return 4096
	}
	return 0
}

// limits are what each step gets, and the most that it may ask for.
func (o *sandboxOptions) limits() sandbox.Limits {
	return sandbox.Limits{Memory: *o.memory, CPUs: *o.cpus, Processes: *o.processes, Disk: *o.disk}
}

// open opens the sandbox that the options choose, and tells the tools what is
// to be had in it.
func (o *sandboxOptions) open(mirror, credentials string, tools *worker.Tools, log *slog.Logger) (sandbox.Sandbox, func(), error) {
	if err := o.grant(tools, mirror, credentials); err != nil {
		return nil, nil, err
	}
	images := image.At(*o.images)
	kind := *o.kind
	if kind == "" { // who has no image has not asked for containers, and misses nothing
		kind = "auto"
		if names, err := images.Names(); *o.image == "" && len(names) == 0 && err == nil {
			kind = "plain"
		}
	}
	switch kind {
	case "plain":
	case "lxc", "auto":
		sb, err := o.lxc(images, tools)
		if err == nil {
			return sb, func() { sb.Close() }, nil
		}
		if kind == "lxc" {
			return nil, nil, err
		}
		log.Warn("steps run without containers: " + err.Error())
	default:
		return nil, nil, fault.Errorf(fault.Usage, "--sandbox %q: expected lxc, plain or auto", *o.kind)
	}
	sb, err := plain.New()
	if err != nil {
		return nil, nil, err
	}
	return sb, func() { sb.Close() }, nil
}

// ask sets what steps may ask for. The function that it returns removes what of
// it is in memory.
func (o *sandboxOptions) ask(tools *worker.Tools, log *slog.Logger) (done func(), err error) {
	if tools.Networks, err = worker.ReadNetworks(*o.networks); err != nil {
		return nil, fault.Errorf(fault.Usage, "--network: %w", err)
	}
	if tools.Secrets, err = secret.Open(*o.secrets); err != nil {
		return nil, err
	}
	memory := tools.Secrets.Memory
	if err := memory.Clean(); err != nil {
		log.Warn("removing what a worker has left", "error", err)
	}
	return func() {
		if err := memory.Close(); err != nil {
			log.Warn("removing secrets", "error", err)
		}
	}, nil
}

// lxc opens the sandbox that makes containers. It has the images that there
// are, one of which is for steps that name none. An error of kind Config tells
// all that is missing.
func (o *sandboxOptions) lxc(images *image.Store, tools *worker.Tools) (*lxc.Sandbox, error) {
	sb, err := lxc.New(lxc.Options{Images: *o.images})
	name, noImage := o.chooseImage(images)
	switch {
	case err != nil && noImage != nil:
		return nil, fault.Errorf(fault.Config, "%w; %w", err, noImage)
	case err != nil:
		return nil, err
	case noImage != nil:
		sb.Close()
		return nil, noImage
	}
	tools.Image = name
	tools.Images = func() []string {
		names, _ := images.Names() // what cannot be read cannot be offered
		for i, name := range names {
			names[i] = image.Capability(name)
		}
		return names
	}
	return sb, nil
}

// chooseImage finds the image of steps that name none: the one that was asked
// for, or the only one.
func (o *sandboxOptions) chooseImage(images *image.Store) (string, error) {
	if *o.image != "" {
		_, err := images.Show(*o.image)
		if errors.Is(err, image.ErrNotFound) {
			err = fault.Errorf(fault.Config, "--image: %w; distci-lxc image build %s makes one of that name", err, *o.image)
		}
		return *o.image, err
	}
	names, err := images.Names()
	switch {
	case err != nil:
		return "", err
	case len(names) == 0:
		return "", fault.Errorf(fault.Config, "there is no image in %s: distci-lxc image build NAME makes one", *o.images)
	case len(names) > 1:
		return "", fault.Errorf(fault.Config, "there are the images %s: --image says which one steps get that name none", strings.Join(names, ", "))
	}
	return names[0], nil
}

// grant sets what tools get besides.
func (o *sandboxOptions) grant(tools *worker.Tools, mirror, credentials string) (err error) {
	tools.Grants = worker.DefaultGrants()
	if *o.grants != "" {
		if tools.Grants, err = worker.ReadGrants(*o.grants); err != nil {
			return err
		}
	}
	for _, m := range []worker.GrantMount{
		{Source: mirror, Target: "/run/distci/mirror", Env: "DISTCI_MIRROR"},
		{Source: credentials, Target: "/run/distci/credentials", Env: "DISTCI_CREDENTIALS", ReadOnly: true},
	} {
		if m.Source == "" {
			continue
		}
		if m.Source, err = filepath.Abs(m.Source); err != nil {
			return fault.Wrap(fault.Config, err)
		}
		tools.Grants.Add("git-checkout", m)
	}
	return nil
}
