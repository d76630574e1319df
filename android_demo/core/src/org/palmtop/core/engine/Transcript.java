package org.palmtop.core.engine;

import java.util.List;
import org.palmtop.core.text.Ids;
import org.palmtop.core.text.StopStrings;
import org.palmtop.core.text.Utf8Pieces;

/** Text of one answer as its tokens come: whole characters, nothing of a stop string. */
final class Transcript {
    final Ids ids = new Ids();
    private final StringBuilder text = new StringBuilder();
    private final Utf8Pieces pieces;
    private final StopStrings stops;

    Transcript(Utf8Pieces pieces, List<String> stop) {
        this.pieces = pieces;
        this.stops = new StopStrings(stop);
    }

    /** A stop string has appeared. */
    boolean isStopped() {
        return stops.isFound();
    }

    /** Let out so far. */
    String text() {
        return text.toString();
    }

    /** The text that may be shown now. */
    String push(int token) {
        ids.add(token);
        return show(stops.feed(pieces.push(token)));
    }

    /** The text that was held back, when no more tokens come. */
    String finish() {
        if (isStopped()) {
            return "";
        }
        String shown = show(stops.feed(pieces.flush()));
        return isStopped() ? shown : shown + show(stops.rest());
    }

    private String show(String more) {
        text.append(more);
        return more;
    }
}
