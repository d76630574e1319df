package org.palmtop.core.text;

import java.util.List;

/** Stop strings in streamed text: nothing that could still become one is let out. */
public final class StopStrings {
    private final List<String> strings;
    private String held = "";
    private boolean found;

    public StopStrings(List<String> strings) {
        this.strings = strings;
    }

    /** A stop string has appeared; text ends before it. */
    public boolean isFound() {
        return found;
    }

    /** Add text; return the part that can be shown now. */
    public String feed(String text) {
        if (found) {
            return "";
        }
        held += text;
        int first = -1;
        for (String string : strings) {
            int place = held.indexOf(string);
            first = place >= 0 && (first < 0 || place < first) ? place : first;
        }
        if (first >= 0) {
            found = true;
            String out = held.substring(0, first);
            held = "";
            return out;
        }
        int keep = 0;
        for (String string : strings) {
            int overlap = Math.min(string.length() - 1, held.length());
            while (overlap > keep && !held.endsWith(string.substring(0, overlap))) {
                overlap--;
            }
            keep = Math.max(keep, overlap);
        }
        int cut = held.length() - keep;
        String out = held.substring(0, cut);
        held = held.substring(cut);
        return out;
    }

    /** Text that was held back, after the last of the text. */
    public String rest() {
        String out = held;
        held = "";
        return out;
    }
}
