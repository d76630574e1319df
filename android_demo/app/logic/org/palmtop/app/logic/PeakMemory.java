package org.palmtop.app.logic;

import java.io.File;
import java.io.IOException;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** The most memory that this process has held, as Linux counts it. */
public final class PeakMemory {
    private static final Pattern HIGH_WATER = Pattern.compile("VmHWM:\\s+(\\d+) kB");
    private static final int MAX_FILE_BYTES = 1 << 16;

    private PeakMemory() {}

    /** Bytes; 0 where the system does not say. {@code status} is /proc/self/status. */
    public static long bytes(File status) {
        try {
            Matcher found = HIGH_WATER.matcher(TextFile.read(status, MAX_FILE_BYTES));
            return found.find() ? Long.parseLong(found.group(1)) * 1024 : 0;
        } catch (IOException error) {
            return 0;
        }
    }
}
