//go:build fixed

package main

import (
	"regexp"
	"strings"
)

var refused = regexp.MustCompile(`^[0-9:]+ refused user=([0-9]+) host=`)

// makeReport compiles the expression once, and lets the text grow in place.
func makeReport(lines []string) report {
	var found report
	var text strings.Builder
	for _, line := range lines {
		if refused.MatchString(line) {
			text.WriteString(line)
			text.WriteByte('\n')
			found.Count++
		}
	}
	found.Text = text.String()
	return found
}
