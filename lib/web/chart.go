package web

import (
	"fmt"
	"html/template"
	"slices"
	"strconv"
	"strings"
	"time"
)

// trend draws the last builds of a job, the oldest on the left: a bar for each,
// as high as it took long, in the colour of its result. Those that did not
// succeed have a mark above, for who cannot tell the colours.
func trend(builds []*summary) template.HTML {
	if len(builds) == 0 {
		return ""
	}
	const bar, gap, height, top = 6, 2, 22, 5
	longest := longestOf(builds)
	counts := map[string]int{}
	var b strings.Builder
	width := trendLength*(bar+gap) - gap
	x := width - len(builds)*(bar+gap) + gap
	for _, s := range slices.Backward(builds) {
		counts[s.State]++
		h := 3 + int(float64(height-top-3)*ratio(s, longest))
		fmt.Fprintf(&b, `<rect class="%s" x="%d" y="%d" width="%d" height="%d" rx="1"><title>#%d %s %s</title></rect>`,
			className(s.State), x, height-h, bar, h, s.Number, word(s.State), took(s.Created, s.Ended))
		if s.State == "failure" || s.State == "error" {
			fmt.Fprintf(&b, `<circle class="%s" cx="%d" cy="%d" r="1.6"/>`, className(s.State), x+bar/2, max(2, height-h-3))
		}
		x += bar + gap
	}
	return template.HTML(fmt.Sprintf(`<svg class="trend" viewBox="0 0 %d %d" width="%d" height="%d" role="img" aria-label="%s">%s</svg>`,
		width, height, width, height, template.HTMLEscapeString(tell(counts)), b.String()))
}

// tell says how many builds had which results.
func tell(counts map[string]int) string {
	var parts []string
	for _, state := range []string{"success", "failure", "error", "canceled", "running", "preparing"} {
		if n := counts[state]; n > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n, strings.ToLower(word(state))))
		}
	}
	return "Last builds: " + strings.Join(parts, ", ")
}

// className is the class of a state; one that is not ours has none.
func className(state string) string {
	if _, ok := icons[state]; ok {
		return state
	}
	return "none"
}

func longestOf(builds []*summary) time.Duration {
	longest := time.Duration(1)
	for _, s := range builds {
		if !s.Ended.IsZero() {
			longest = max(longest, s.Ended.Sub(s.Created))
		}
	}
	return longest
}

// ratio of a build's duration to the longest one's; one that runs is drawn low.
func ratio(s *summary, longest time.Duration) float64 {
	if s.Ended.IsZero() {
		return 0.1
	}
	return max(0, float64(s.Ended.Sub(s.Created))/float64(longest))
}

// chart draws the durations of a job's builds, the newest on the right. The
// table below it has the same for who cannot see it, so that its links are for
// the pointer only.
func chart(job string, builds []*summary) template.HTML {
	const slot, bar, height, left, top = 14, 10, 112, 58, 8
	const base = height - 18
	longest := niceSpan(longestOf(builds))
	slots := max(len(builds), chartLength)
	width := left + slots*slot
	var b strings.Builder
	fmt.Fprintf(&b, `<svg class="chart" viewBox="0 0 %d %d" width="%d" height="%d" aria-hidden="true">`, width, height, width, height)
	for i := range 3 {
		y := top + i*(base-top)/2
		fmt.Fprintf(&b, `<path class="grid" d="M%d %d.5H%d"/><text x="%d" y="%d">%s</text>`,
			left, y, width, left-8, y+4, axis(longest*time.Duration(2-i)/2))
	}
	x := left + (slots-len(builds))*slot + (slot-bar)/2
	for i, s := range slices.Backward(builds) {
		h := max(3, int(float64(base-top)*ratio(s, longest)))
		fmt.Fprintf(&b, `<a href="/ui/jobs/%s/builds/%d" tabindex="-1"><rect class="hit" x="%d" y="%d" width="%d" height="%d"/>`+
			`<rect class="%s" x="%d" y="%d" width="%d" height="%d" rx="1.5"/><title>#%d · %s · %s</title></a>`,
			job, s.Number, x-(slot-bar)/2, top, slot, base-top, className(s.State), x, base-h, bar, h, s.Number, word(s.State), took(s.Created, s.Ended))
		if i == len(builds)-1 || (len(builds)-1-i)%10 == 0 && i > 0 {
			fmt.Fprintf(&b, `<text class="mid" x="%d" y="%d">#%s</text>`, x+bar/2, height-3, strconv.FormatInt(int64(s.Number), 10))
		}
		x += slot
	}
	b.WriteString(`</svg>`)
	return template.HTML(b.String())
}

// niceSpan is the next span of time that is easy to read.
func niceSpan(d time.Duration) time.Duration {
	for _, s := range []int{1, 2, 4, 6, 10, 20, 30, 60, 120, 240, 360, 600, 1200, 1800, 3600, 7200, 14400, 21600, 43200, 86400} {
		if d <= time.Duration(s)*time.Second {
			return time.Duration(s) * time.Second
		}
	}
	return d.Truncate(24*time.Hour) + 24*time.Hour
}

// axis is a span of time in one unit.
func axis(d time.Duration) string {
	switch {
	case d == 0:
		return "0"
	case d < time.Minute:
		return strconv.FormatFloat(d.Seconds(), 'g', 3, 64) + " s"
	case d < time.Hour:
		return strconv.FormatFloat(d.Minutes(), 'g', 3, 64) + " min"
	}
	return strconv.FormatFloat(d.Hours(), 'g', 3, 64) + " h"
}
