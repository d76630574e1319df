package org.palmtop.core.media;

/** Reduction of a photo while it is decoded, so that 40 megapixels are never in memory. */
public final class PhotoPolicy {
    /** Decoded pixels that are held at once: 48 MB as a Bitmap. */
    public static final long MAX_DECODED_PIXELS = 12_000_000L;
    /** Larger files are refused before they are decoded, as the Python runtime does. */
    public static final long MAX_PIXELS = 1L << 27;

    private PhotoPolicy() {}

    /** A power of two for {@code BitmapFactory.Options.inSampleSize}; 1 keeps every pixel. */
    public static int sampleSize(int width, int height) {
        int factor = 1;
        while (((long) width / factor) * (height / factor) > MAX_DECODED_PIXELS) {
            factor *= 2;
        }
        return factor;
    }
}
