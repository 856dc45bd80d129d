// Command bench measures what the programs in bin/ reach, and prints one JSON
// object a line.
//
// Every row is compared with a peer or a floor that is measured in the same
// run, since machines differ and are noisy.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
)

// row is one result.
type row struct {
	Name    string   `json:"name"`
	Value   float64  `json:"value"`
	Unit    string   `json:"unit"`
	Against string   `json:"against"` // what it is compared with, and that one's value
	Ratio   *float64 `json:"ratio"`   // of the value to that one's
	Bar     string   `json:"bar"`     // what it must reach; "": nothing is demanded
	OK      *bool    `json:"ok"`
}

// measurement makes some rows.
type measurement struct {
	name string
	run  func(b *bench) error
}

func main() {
	pattern := flag.String("run", ".", "measure only what matches this `regexp`")
	short := flag.Bool("short", false, "measure a little of what is large: the figures say nothing")
	flag.Parse()
	re, err := regexp.Compile(*pattern)
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(64)
	}
	failed := false
	for _, m := range []measurement{
		{"step", steps},
		{"trigger", triggers},
		{"hook", hooks},
		{"console", console},
		{"follow", follow},
		{"logs", logs},
		{"web", pages},
		{"frontend", frontends},
		{"handover", handover},
		{"prefetch", prefetch},
		{"artifact", artifacts},
		{"checkout", checkout},
		{"idle", idle},
		{"lxc", containers},
		{"s3", s3rows},
		{"zk-queue", zkQueue},
		{"zk-wait", zkWait},
		{"zk-step", zkStep},
		{"zk-kill", zkKill},
		{"zk-scale", zkScale},
		{"ceph", cephRows},
		{"stores", storeRows},
		{"sizes", sizes},
	} {
		if !re.MatchString(m.name) {
			continue
		}
		if err := measure(m, *short); err != nil {
			fmt.Fprintf(os.Stderr, "bench: %s: %v\n", m.name, err)
			failed = true
		}
	}
	if failed {
		os.Exit(1)
	}
}

func measure(m measurement, short bool) error {
	dir, err := os.MkdirTemp("", "distci-bench-")
	if err != nil {
		return err
	}
	b := &bench{dir: dir, coord: "local:" + dir + "/coord.db", short: short}
	defer b.close()
	return m.run(b)
}

// print writes a row. With a bar, met says whether it is reached.
func (b *bench) print(name string, value float64, unit, against string, peer float64, bar string, met func(value, ratio float64) bool) {
	r := row{Name: b.label + name, Value: round(value), Unit: unit, Against: against, Bar: bar}
	ratio := 0.0
	if peer > 0 {
		ratio = value / peer
		rounded := round(ratio)
		r.Ratio = &rounded
		r.Against = fmt.Sprintf("%s: %v %s", against, round(peer), unit)
	}
	if met != nil {
		ok := met(value, ratio)
		r.OK = &ok
	}
	enc := json.NewEncoder(os.Stdout)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(r); err != nil {
		panic(err) // numbers and strings
	}
}
func round(v float64) float64 {
	var r float64
	fmt.Sscanf(fmt.Sprintf("%.3g", v), "%g", &r)
	return r
}

// quantile of the values, which it sorts.
func quantile(values []float64, q float64) float64 {
	slices.Sort(values)
	return values[min(len(values)-1, int(q*float64(len(values))))]
}
