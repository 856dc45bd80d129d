package metrics

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	dto "github.com/prometheus/client_model/go"
	"go.yaml.in/yaml/v3"

	"github.com/distci/distci/test/need"
)

const examples = "../../examples/monitoring/"

// expression is one that an example has.
type expression struct{ where, text string }

func read(t *testing.T, file string) []byte {
	t.Helper()
	b, err := os.ReadFile(examples + file)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func decode(t *testing.T, file string, v any) {
	t.Helper()
	b := read(t, file)
	err := error(nil)
	if strings.HasSuffix(file, ".json") {
		err = json.Unmarshal(b, v)
	} else {
		err = yaml.Unmarshal(b, v)
	}
	if err != nil {
		t.Fatalf("%s: %v", file, err)
	}
}

// expressions are those of all examples.
func expressions(t *testing.T) (all []expression) {
	t.Helper()
	var board struct {
		Panels []struct {
			Title   string
			Targets []struct{ Expr string }
		}
	}
	decode(t, "dashboard.json", &board)
	for _, p := range board.Panels {
		for _, target := range p.Targets {
			all = append(all, expression{"dashboard: " + p.Title, strings.ReplaceAll(target.Expr, "$__rate_interval", "5m")})
		}
	}
	var rules struct {
		Groups []struct {
			Rules []struct{ Alert, Expr string }
		}
	}
	decode(t, "alerts.yml", &rules)
	for _, g := range rules.Groups {
		for _, r := range g.Rules {
			all = append(all, expression{"alert: " + r.Alert, r.Expr})
		}
	}
	var keda struct {
		Spec struct {
			Triggers []struct {
				Metadata struct{ Query string }
			}
		}
	}
	decode(t, "keda.yml", &keda)
	for _, k := range keda.Spec.Triggers {
		all = append(all, expression{"keda", k.Metadata.Query})
	}
	for _, file := range []string{"hpa.yml", "prometheus.yml"} {
		decode(t, file, &struct{}{})
	}
	if m := regexp.MustCompile(`metricsQuery: (.*)`).FindSubmatch(read(t, "hpa.yml")); m != nil {
		all = append(all, expression{"hpa", string(m[1])})
	}
	if len(all) < 30 {
		t.Fatalf("only %d expressions were found", len(all))
	}
	return all
}

var (
	metricName = regexp.MustCompile(`\bdistci_[a-z_]+`)
	selected   = regexp.MustCompile(`(distci_[a-z_]+)\{([^}]*)\}`)
	selector   = regexp.MustCompile(`([a-z_]+)(?:=~|!~|!=|=)"`)
	grouped    = regexp.MustCompile(`\b(?:by|on) ?\(([^)]*)\)`)
)

// TestExamplesUseWhatThereIs: every metric and every label in the dashboard, the
// alerts and the rules for scaling exists, and every metric is used by one.
func TestExamplesUseWhatThereIs(t *testing.T) {
	known := map[string]*dto.MetricFamily{}
	labelsOf := map[string][]string{}
	for _, f := range families(t, all(t)) {
		names := []string{f.GetName()}
		if f.GetType() == dto.MetricType_HISTOGRAM {
			names = []string{f.GetName() + "_bucket", f.GetName() + "_sum", f.GetName() + "_count"}
		}
		for _, n := range names {
			known[n] = f
			labelsOf[n] = []string{"instance", "le"}
			for _, l := range f.Metric[0].Label {
				labelsOf[n] = append(labelsOf[n], l.GetName())
			}
		}
	}
	used := map[string]bool{}
	for _, e := range expressions(t) {
		var may []string
		for _, name := range metricName.FindAllString(e.text, -1) {
			f := known[name]
			if f == nil {
				t.Errorf("%s: there is no %s", e.where, name)
				continue
			}
			used[f.GetName()] = true
			may = append(may, labelsOf[name]...)
			if counts := strings.HasSuffix(name, "_total"); counts && !regexp.MustCompile(`(rate|increase)\(`+name).MatchString(e.text) {
				t.Errorf("%s: %s is used without its rate", e.where, name)
			}
		}
		for _, m := range selected.FindAllStringSubmatch(e.text, -1) {
			for _, l := range selector.FindAllStringSubmatch(m[2], -1) {
				if !slices.Contains(labelsOf[m[1]], l[1]) {
					t.Errorf("%s: %s has no label %s", e.where, m[1], l[1])
				}
			}
		}
		for _, m := range grouped.FindAllStringSubmatch(e.text, -1) {
			for l := range strings.SplitSeq(m[1], ",") {
				if !slices.Contains(may, strings.TrimSpace(l)) {
					t.Errorf("%s: no metric in %s has a label %s", e.where, e.text, l)
				}
			}
		}
	}
	// For eyes, and for joins.
	rest := []string{"distci_build_info", "distci_observe_dropped_events_total", "distci_queue_scan_duration_seconds", "distci_tickets_total"}
	for _, f := range known {
		if name := f.GetName(); strings.HasPrefix(name, "distci_") && !used[name] && !slices.Contains(rest, name) {
			t.Errorf("no example uses %s", name)
		}
	}
}

// TestPromtool lets Prometheus' own tool read the expressions.
func TestPromtool(t *testing.T) {
	promtool, err := exec.LookPath("promtool")
	if err != nil {
		cache, _ := os.UserCacheDir()
		promtool, err = exec.LookPath(filepath.Join(cache, "distci-test/prometheus/usr/bin/promtool"))
	}
	if err != nil {
		need.Missing(t, "prometheus", "there is no promtool here")
	}
	var rules strings.Builder
	rules.WriteString("groups:\n- name: all\n  rules:\n")
	for i, e := range expressions(t) {
		fmt.Fprintf(&rules, "  - {record: 'x:%d', expr: %q}\n", i, e.text)
	}
	file := filepath.Join(t.TempDir(), "rules.yml")
	if err := os.WriteFile(file, []byte(rules.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, f := range []string{file, examples + "alerts.yml"} {
		if out, err := exec.Command(promtool, "check", "rules", f).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", f, err, out)
		}
	}
	metrics := exec.Command(promtool, "check", "metrics")
	metrics.Stdin = strings.NewReader(regexp.MustCompile(`(?m)^(# (HELP|TYPE) )?(go|process)_.*\n`).ReplaceAllString(text(t, all(t)), ""))
	if out, err := metrics.CombinedOutput(); err != nil {
		t.Errorf("check metrics: %v: %s", err, out)
	}
}
