package org.palmtop.app.logic;

/** The EXIF orientation of a photo: how its stored pixels are turned to stand upright. */
public final class Upright {
    private static final int[] DEGREES = {0, 0, 0, 180, 180, 90, 90, 270, 270};
    private static final boolean[] MIRRORED = {false, false, true, false, true, true, false, true, false};

    /** Clockwise, after mirroring. */
    public final int degrees;
    /** Left and right are exchanged first. */
    public final boolean isMirrored;

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
}
