package org.palmtop.core.media;

/** A sound of a message: a file, opened when needed, or samples in memory. */
public abstract class Recording extends MediaItem {
    protected Recording(String key) {
        super("audio", key);
    }

    /** The samples; closed by the caller if {@link java.io.Closeable}. */
    public abstract PcmSource open();
}
