package tool

import (
	"bytes"
	"encoding/json"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/fault"
)

// settings are the keys of the configuration file, and in upper case, behind
// "DISTCI_", the environment variables. They are one namespace for all
// programs, so that one file serves a machine.
var settings = []string{
	"coord", "store", "url", "token_file", "ca_file", "client_cert", "client_key", "path", "workspace", "mirror",
	"credentials", "labels", "state", "session_timeout", "history", "sandbox", "image", "images", "grants", "network", "secrets", "trace",
}

const envAnnotation = "distci_env"

// Setting declares a string flag that can also be set by the environment
// variable DISTCI_KEY or by "key" in the configuration file, in this order of
// preference.
func Setting(flags *pflag.FlagSet, name, key, value, usage string) *string {
	if !slices.Contains(settings, key) {
		panic("tool: setting " + key + " is not declared")
	}
	env := "DISTCI_" + strings.ToUpper(key)
	p := flags.String(name, value, usage+" (env "+env+")")
	flags.SetAnnotation(name, envAnnotation, []string{env, key})
	return p
}

// settle gives the settings that no flag has set their value.
func settle(flags *pflag.FlagSet) error {
	var file map[string]string // read at the first need
	var err error
	flags.VisitAll(func(f *pflag.Flag) {
		a := f.Annotations[envAnnotation]
		if a == nil || f.Changed || err != nil {
			return
		}
		v, ok := os.LookupEnv(a[0])
		if !ok || v == "" {
			if file == nil {
				if file, err = readConfig(); err != nil {
					return
				}
			}
			v = file[a[1]]
		}
		if v == "" {
			return
		}
		if e := f.Value.Set(v); e != nil {
			err = fault.Errorf(fault.Config, "%s: %w", a[0], e)
		}
	})
	return err
}

// ConfigFiles are the places of the configuration file; the first that exists
// is read.
func ConfigFiles() []string {
	dir := os.Getenv("XDG_CONFIG_HOME")
	if dir == "" {
		dir = filepath.Join(os.Getenv("HOME"), ".config")
	}
	return []string{filepath.Join(dir, "distci", "distci.json"), "/etc/distci/distci.json"}
}

// readConfig reads the configuration file: one JSON object of strings.
func readConfig() (map[string]string, error) {
	m := map[string]string{}
	for _, name := range ConfigFiles() {
		b, err := os.ReadFile(name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, fault.Errorf(fault.Config, "configuration: %w", err)
		}
		if err := json.NewDecoder(bytes.NewReader(b)).Decode(&m); err != nil {
			return nil, fault.Errorf(fault.Config, "%s: expected one JSON object of strings: %w", name, err)
		}
		for k := range m {
			if !slices.Contains(settings, k) {
				return nil, fault.Errorf(fault.Config, "%s: unknown key %q (known: %s)", name, k, strings.Join(settings, ", "))
			}
		}
		break
	}
	return m, nil
}

// StateDir is where a program keeps its local data by default:
// $XDG_STATE_HOME/distci, or ~/.local/state/distci.
func StateDir() string {
	dir := os.Getenv("XDG_STATE_HOME")
	if dir == "" {
		dir = filepath.Join(os.Getenv("HOME"), ".local", "state")
	}
	return filepath.Join(dir, "distci")
}
