package floors

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

var (
	helpFlag    = regexp.MustCompile(`(?m)^ +(?:-(\w), )?--([a-z][a-z-]*)`)
	helpCommand = regexp.MustCompile(`(?m)^  ([a-z]+)[ A-Z\[\]a-z|…]*  +[A-Z]`)
	pageItem    = regexp.MustCompile(`(?m)^\.It Fl .*$`)
	pageFlag    = regexp.MustCompile(`Fl -?([a-zA-Z][a-zA-Z-]*)`)
)

// flags are the names of flags, the long ones and the short ones.
type flags map[string]bool

func (f flags) missing(from flags) []string {
	var names []string
	for name := range f {
		if !from[name] {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// help reads a program's help, which goes to standard output, and adds the
// flags that it lists to f.
func (f flags) help(t *testing.T, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, append(args, "--help")...)
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil || stderr.Len() > 0 {
		t.Fatalf("%s %v --help: %v: %s", filepath.Base(program), args, err, &stderr)
	}
	_, options, ok := strings.Cut(string(out), "\nOptions:\n")
	if !ok {
		t.Fatalf("%s %v --help tells no options:\n%s", filepath.Base(program), args, out)
	}
	for _, m := range helpFlag.FindAllStringSubmatch(options, -1) {
		f[m[2]] = true
		if m[1] != "" {
			f[m[1]] = true
		}
	}
	return string(out)
}

// TestFlagsAreInTheManPages asserts that the page of each program has an item
// for each of its flags, those of its commands included, and for no other. A
// command with a page of its own, as distci-lxc-image(1), is described there.
func TestFlagsAreInTheManPages(t *testing.T) {
	bin := t.TempDir()
	build := exec.Command("go", "build", "-o", bin, "../../cmd/...")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	// They are not for people: distci-lxc(1) and distci-buildctl(1) tell of them.
	for _, p := range []string{"distci-init", "distci-control"} {
		if err := os.Remove(filepath.Join(bin, p)); err != nil {
			t.Fatal(err)
		}
	}
	programs, err := os.ReadDir(bin)
	if err != nil || len(programs) < 7 {
		t.Fatalf("%d programs, %v", len(programs), err)
	}
	// The commands that a program's help does not list by itself.
	commands := map[string][]string{"distci-checkout": {"poll"}, "distci-lxc": {"image"}}
	for _, p := range programs {
		program := filepath.Join(bin, p.Name())
		has := flags{}
		text := has.help(t, program)
		found := append(commands[p.Name()], listed(text)...)
		if p.Name() == "distci-buildctl" && !slices.Contains(found, "trigger") {
			t.Errorf("no commands in the help of %s:\n%s", p.Name(), text)
		}
		for _, c := range found {
			own := p.Name() + "-" + c
			if _, err := os.Stat("../../man/" + own + ".1"); err != nil {
				has.help(t, program, c)
				continue
			}
			all := flags{}
			for _, sub := range listed(all.help(t, program, c)) {
				all.help(t, program, c, sub)
			}
			if len(all) < 8 {
				t.Errorf("the help of %s and its commands tells only of %v", own, all)
			}
			compare(t, own, all)
		}
		compare(t, p.Name(), has)
	}
}

// listed are the commands that a help text lists.
func listed(help string) (commands []string) {
	intro, _, _ := strings.Cut(help, "\nOptions:\n")
	for _, m := range helpCommand.FindAllStringSubmatch(intro, -1) {
		commands = append(commands, m[1])
	}
	return commands
}

// compare holds a man page against the flags that it is to describe.
func compare(t *testing.T, name string, has flags) {
	t.Helper()
	if len(has) < 5 {
		t.Errorf("the help of %s tells only of %v", name, has)
	}
	pages, err := filepath.Glob("../../man/" + name + ".[18]")
	if err != nil || len(pages) != 1 {
		t.Errorf("%s has the man pages %v", name, pages)
		return
	}
	page, err := os.ReadFile(pages[0])
	if err != nil {
		t.Fatal(err)
	}
	described := flags{}
	for _, item := range pageItem.FindAllString(string(page), -1) {
		for _, m := range pageFlag.FindAllStringSubmatch(item, -1) {
			described[m[1]] = true
		}
	}
	for _, flag := range has.missing(described) {
		t.Errorf("%s does not describe the flag %q", filepath.Base(pages[0]), flag)
	}
	for _, flag := range described.missing(has) {
		t.Errorf("%s describes the flag %q, which does not exist", filepath.Base(pages[0]), flag)
	}
}
