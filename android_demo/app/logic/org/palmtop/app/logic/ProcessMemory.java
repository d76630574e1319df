package org.palmtop.app.logic;

import java.io.File;
import java.io.IOException;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

/** Memory of the app's process, as Linux counts it, of what the phone could give it. */
public final class ProcessMemory {
    /** Linux' own page about this process. */
    public static final File STATUS = new File("/proc/self/status");

    private static final int MAX_FILE_BYTES = 1 << 16;

    /** Bytes held now; pages of the model's files among them. 0 where the system does not say. */
    public final long usedBytes;
    /** The most bytes that were held at one time. */
    public final long peakBytes;
    /** Bytes that the process holds and those that it could have besides. */
    public final long availableBytes;

    /**
     * @param status {@link #STATUS}.
     * @param freeBytes what the phone can give without closing other apps.
     */
    public ProcessMemory(File status, long freeBytes) {
        String text;
        try {
            text = TextFile.read(status, MAX_FILE_BYTES);
        } catch (IOException error) {
            text = "";
        }
        usedBytes = bytes(text, "VmRSS");
        peakBytes = bytes(text, "VmHWM");
        availableBytes = usedBytes + freeBytes;
    }

    private static long bytes(String status, String name) {
        Matcher found = Pattern.compile(name + ":\\s+(\\d+) kB").matcher(status);
        return found.find() ? Long.parseLong(found.group(1)) * 1024 : 0;
    }
}
