package browser

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"github.com/distci/distci/lib/build"
	"github.com/distci/distci/lib/ticket"
)

// compiler is a job whose log has everything that logs have.
const compiler = `printf '\033[1mcompiling\033[0m 3 files for %s\n' "$PROFILE"
printf '\033[32m✓\033[0m lexer      \033[2m0.12 s\033[0m\n\033[32m✓\033[0m parser     \033[2m0.31 s\033[0m\n'
printf 'src/round.c:12:7: \033[1;35mwarning:\033[0m unused variable ‘x’ [\033[1;35m-Wunused-variable\033[0m]\n   12 |   int \033[1;35mx\033[0m = 3;\n      |       \033[1;35m^\033[0m\n'
printf '10%%\r50%%\r100%% linked\n'
for i in $(seq 1 400); do echo "cc -O2 -c src/part-$i.c -o build/part-$i.o"; done
`

const failing = `printf '=== RUN   TestRound\n    round_test.c:48: \033[31mgot 2.5, want 3\033[0m\n--- \033[31;1mFAIL\033[0m: TestRound (0.02 s)\n'
printf '\033[41;97m FAIL \033[0m 1 of 129 tests\n'; exit 1`

// fill makes jobs and builds such as people have.
func (l *lab) fill() {
	l.Helper()
	parameters := map[string]any{"description": "The compiler, its tests and its package.", "parameters": map[string]string{"PROFILE": "release", "TARGETS": "x86_64\naarch64"}}
	l.job("compiler", parameters, shell("configure", "echo 'checking for cc… gcc'"), shell("build", compiler+"mkdir -p out; echo binary >out/cc; echo notes >out/README.txt"),
		shell("test", failing), task{"name": "publish", "type": "publish-artifacts", "params": map[string]any{"artifacts": []string{"out/*"}, "always": true}})
	l.job("website", nil, shell("render", "sleep 0.2; echo 42 pages"), shell("check links", "echo all are good"))
	l.job("nightly-with-a-rather-long-name-as-people-have-them", nil, shell("all", "true"))
	l.job("never-built", nil, shell("all", "true"))
	l.history("compiler", 38, 4*time.Minute)
	l.history("website", 9, 50*time.Second)
	for i := range 2 {
		l.finish("compiler", l.trigger("compiler", `{"parameters":{"PROFILE":"debug"}}`))
		if i == 0 {
			l.finish("website", l.trigger("website", ""))
		}
	}
	l.finish("nightly-with-a-rather-long-name-as-people-have-them", l.trigger("nightly-with-a-rather-long-name-as-people-have-them", ""))
	for i, id := range []string{"docs", "integration", "kernel-arm64", "kernel-x86_64", "release", "toolchain"} {
		l.job(id, nil, shell("all", "true"))
		l.history(id, 7+3*i%8, time.Duration(2+3*i)*time.Minute)
	}
	l.ask("PUT", "/jobs/compiler/tags/v1.0", `{"build_number": 12}`)
}

// history gives a job builds of the last days, as a controller of builds would
// have put them there: some have failed, and none took quite as long as others.
func (l *lab) history(job string, builds int, about time.Duration) {
	l.Helper()
	random := rand.New(rand.NewPCG(uint64(builds), uint64(about)))
	for i := range builds {
		n := l.trigger(job, "")
		created := time.Now().UTC().Add(-time.Duration(builds-i) * 97 * time.Minute).Truncate(time.Second)
		ended := created.Add(about*3/4 + time.Duration(random.Int64N(int64(about/2))))
		s := build.State{Status: build.Complete, Result: ticket.Success, Created: &created, Ended: &ended, Cause: &build.Cause{Kind: "request", By: []string{"ada", "grace", "linus"}[random.IntN(3)]}}
		switch random.IntN(9) {
		case 0, 1:
			s.Result = ticket.Failure
		case 2:
			s.Result = ticket.Canceled
		}
		b, err := json.Marshal(&s)
		if err != nil {
			l.Fatal(err)
		}
		l.ask("PUT", fmt.Sprintf("/jobs/%s/builds/%d/state", job, n), string(b))
	}
}

// TestLooks takes pictures of every page, in light and in dark, on a desk and on
// a phone, and asks axe-core about each.
func TestLooks(t *testing.T) {
	l := newLab(t, 1)
	l.fill()
	wait, open := l.gate("gate")
	defer open()
	l.job("deploy", nil, shell("prepare", "echo ready"), shell("roll out", `for i in $(seq 1 30); do printf '\033[36mnode-%02d\033[0m is up\n' $i; done; `+wait), shell("verify", "true"))
	l.trigger("deploy", "")
	source := axe(t)
	b := newTab(t, l.url)
	b.allow("status of 404") // the page that is not there
	pages := []struct{ name, path, ready string }{
		{"jobs", "/ui/", "compiler"},
		{"none", "/ui/?q=nothing-is-called-so", "No job matches"},
		{"job", "/ui/jobs/compiler", "Configuration"},
		{"build", "/ui/jobs/compiler/builds/40", "1 of 129 tests"},
		{"running", "/ui/jobs/deploy/builds/1", "node-30 is up"},
		{"log", "/ui/jobs/compiler/builds/40/logs/0001.01", "linked"},
		{"found", "/ui/jobs/compiler/builds/40/logs/0001.01?find=part-40", "2 lines with"},
		{"queue", "/ui/queue", "Waiting"},
		{"workers", "/ui/workers", "builder-1"},
		{"missing", "/ui/jobs/no-such-job", "no such job"},
	}
	for _, scheme := range []string{"light", "dark"} {
		b.scheme(scheme)
		for _, size := range []struct {
			name          string
			width, height int64
		}{{"", 1280, 800}, {"-phone", 390, 844}} {
			b.width(size.width, size.height)
			for _, p := range pages {
				b.open(p.path)
				b.text(p.ready)
				name := p.name + size.name + "-" + scheme
				b.picture(name)
				if w := eval[int](b, "document.documentElement.scrollWidth"); w > int(size.width) {
					b.Errorf("%s: the page is %d wide on a screen of %d", name, w, size.width)
				}
				b.check(source, name)
			}
		}
	}
	b.width(1280, 800)
	b.open("/ui/")
	b.click(`[data-do="help"]`)
	b.wait("the list of keys", `document.querySelector("#help").open`)
	b.picture("keys-dark")
	b.check(source, "keys")
}

// TestTheme: what the reader chooses counts more than his system, and stays.
func TestTheme(t *testing.T) {
	l := newLab(t, 0)
	b := newTab(t, l.url)
	b.scheme("light")
	b.open("/ui/")
	background := func() string { return eval[string](b, `getComputedStyle(document.documentElement).backgroundColor`) }
	light := background()
	b.scheme("dark")
	night := background()
	if light == night {
		t.Fatalf("light and dark are both %s", light)
	}
	b.click(`[data-do="theme"]`) // light
	if got := background(); got != light {
		t.Errorf("chosen light on a dark system: %s, want %s", got, light)
	}
	b.open("/ui/queue")
	if got := background(); got != light {
		t.Errorf("chosen light, on the next page: %s, want %s", got, light)
	}
	b.click(`[data-do="theme"]`) // dark
	b.scheme("light")
	if got := background(); got != night {
		t.Errorf("chosen dark on a light system: %s, want %s", got, night)
	}
	b.click(`[data-do="theme"]`) // as the system
	if got := background(); got != light {
		t.Errorf("as the system: %s, want %s", got, light)
	}
}
