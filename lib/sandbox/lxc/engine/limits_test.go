package engine

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/sandbox"
)

// TestLimitsNotInForce: a kernel that has not taken a limit, or has no such
// file, is found out before the program starts.
func TestLimitsNotInForce(t *testing.T) {
	l := sandbox.Limits{Memory: 100 << 20, CPUs: 1.5, Processes: 50}
	good := map[bool]map[string]string{
		false: {"memory.limit_in_bytes": "104857600", "pids.max": "51", "cpu.cfs_quota_us": "150000"},
		true:  {"memory.max": "104857600", "pids.max": "51", "cpu.max": "150000 100000"},
	}
	for v2, files := range good {
		for _, c := range []struct{ name, file, value, says string }{
			{"InForce", "", "", ""},
			{"MemoryUnlimited", "memory", "max", "memory"},
			{"MemoryUnlimitedV1", "memory", "9223372036854771712", "memory"},
			{"MemoryOther", "memory", "104861696", "memory"},
			{"MemoryGarbage", "memory", "", "memory"},
			{"MemoryMissing", "memory", "-", "memory"},
			{"ProcessesUnlimited", "pids", "max", "processes"},
			{"ProcessesOther", "pids", "50", "processes"},
			{"ProcessesMissing", "pids", "-", "processes"},
			{"CPUUnlimited", "cpu", "max 100000", "processors"},
			{"CPUUnlimitedV1", "cpu", "-1", "processors"},
			{"CPUMissing", "cpu", "-", "processors"},
		} {
			name := c.name + " version 1"
			if v2 {
				name = c.name + " version 2"
			}
			t.Run(name, func(t *testing.T) {
				dir := t.TempDir()
				for file, value := range files {
					if c.file != "" && strings.HasPrefix(file, c.file+".") {
						value = c.value
					}
					if value == "-" {
						continue
					}
					if err := os.WriteFile(filepath.Join(dir, file), []byte(value+"\n"), 0o644); err != nil {
						t.Fatal(err)
					}
				}
				counted := &counters{dirs: map[string]string{}, v2: map[string]bool{}}
				for _, name := range []string{"memory", "pids", "cpu"} {
					counted.dirs[name], counted.v2[name] = dir, v2
				}
				err := counted.check(l)
				if c.says == "" {
					if err != nil {
						t.Error(err)
					}
				} else if fault.Of(err) != fault.Config || !strings.Contains(err.Error(), c.says) {
					t.Errorf("%v (%s)", err, fault.Of(err))
				}
			})
		}
	}
	none := &counters{dirs: map[string]string{}, v2: map[string]bool{}}
	for _, l := range []sandbox.Limits{{Memory: 1 << 30}, {Processes: 5}, {CPUs: 1}} {
		if err := none.check(l); fault.Of(err) != fault.Config {
			t.Errorf("without a controller: %v (%s)", err, fault.Of(err))
		}
	}
	if err := none.check(sandbox.Limits{}); err != nil {
		t.Errorf("nothing is limited: %v", err)
	}
}
