package org.palmtop.app.logic;

import java.util.Locale;

/** Bytes and times for people. */
public final class Sizes {
    private static final long MEGA = 1_000_000L;
    private static final long GIGA = 1_000_000_000L;

    private Sizes() {}

    /** "3.9 MB", "2.25 GB". */
    public static String text(long bytes) {
        if (bytes >= GIGA) {
            return String.format(Locale.ROOT, "%.2f GB", bytes / (double) GIGA);
        }
        return bytes >= MEGA
                ? String.format(Locale.ROOT, "%.1f MB", bytes / (double) MEGA)
                : String.format(Locale.ROOT, "%d kB", (bytes + 999) / 1000);
    }

    /** "0:07", "12:30". */
    public static String clock(double seconds) {
        long whole = (long) Math.max(0, seconds);
        return String.format(Locale.ROOT, "%d:%02d", whole / 60, whole % 60);
    }
}
