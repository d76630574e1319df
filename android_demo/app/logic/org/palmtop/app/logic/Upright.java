package org.palmtop.app.logic;

/** The EXIF orientation of a photo: where the pixels of the upright picture lie among the stored ones. */
public final class Upright {
    // By tag, 1..8: mirrored left to right first, then turned clockwise (EXIF 2.32, tag 0x0112).
    private static final int[] DEGREES = {0, 0, 0, 180, 180, 270, 90, 90, 270};
    private static final boolean[] MIRRORED = {false, false, true, false, true, true, false, true, false};

    /** The stored pixels: fill {@code argb} with a rectangle of them, row by row. */
    public interface Stored {
        void read(int[] argb, int x, int y, int width, int height);
    }

    private final int degrees;
    private final boolean isMirrored;

    private Upright(int degrees, boolean isMirrored) {
        this.degrees = degrees;
        this.isMirrored = isMirrored;
    }

    /** @param orientation EXIF tag 0x0112, 1..8; anything else counts as upright. */
    public static Upright of(int orientation) {
        int tag = orientation >= 1 && orientation <= 8 ? orientation : 1;
        return new Upright(DEGREES[tag], MIRRORED[tag]);
    }

    /** Whether width and height change places. */
    public boolean isSideways() {
        return degrees % 180 != 0;
    }

    /**
     * Row {@code y} of the upright picture.
     *
     * @param width width of the stored picture, as {@code height}.
     */
    public void row(Stored stored, int width, int height, int y, int[] argb) {
        boolean isBackwards;
        if (isSideways()) {
            int column = degrees == 90 ? y : width - 1 - y;
            stored.read(argb, isMirrored ? width - 1 - column : column, 0, 1, height);
            isBackwards = degrees == 90;
        } else {
            stored.read(argb, 0, degrees == 180 ? height - 1 - y : y, width, 1);
            isBackwards = (degrees == 180) != isMirrored;
        }
        for (int left = 0, right = (isSideways() ? height : width) - 1; isBackwards && left < right; left++, right--) {
            int pixel = argb[left];
            argb[left] = argb[right];
            argb[right] = pixel;
        }
    }
}
