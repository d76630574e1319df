package org.palmtop.core.media;

/** An image or a sound of a message; equal keys must mean equal content. */
public abstract class MediaItem {
    /** "image" or "audio". */
    public final String kind;
    /** E.g. the path, size and time of the file it was read from. */
    public final String key;

    MediaItem(String kind, String key) {
        this.kind = kind;
        this.key = key;
    }
}
