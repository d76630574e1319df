package org.palmtop.app;

import android.graphics.Bitmap;
import android.graphics.BitmapFactory;
import android.media.ExifInterface;
import java.io.File;
import java.io.IOException;
import org.palmtop.app.logic.Attachment;
import org.palmtop.app.logic.Upright;
import org.palmtop.core.PalmtopException;
import org.palmtop.core.media.PhotoPolicy;
import org.palmtop.core.media.Picture;
import org.palmtop.core.media.PixelRows;

/** A picture in the app's own storage, decoded small enough for the phone and turned upright. */
final class Photo extends Picture {
    private final File file;

    /** @param width of the whole upright picture, as {@link #look} gives it. */
    Photo(File file, int width, int height) {
        super(file.getPath() + ":" + file.length() + ":" + file.lastModified(), width, height);
        this.file = file;
    }

    /** Read a picture's size without its pixels. */
    static Attachment look(File file) throws IOException {
        BitmapFactory.Options bounds = new BitmapFactory.Options();
        bounds.inJustDecodeBounds = true;
        BitmapFactory.decodeFile(file.getPath(), bounds);
        if (bounds.outWidth <= 0 || bounds.outHeight <= 0) {
            throw new IOException("this is not a picture that the phone can read");
        }
        boolean isSideways = upright(file).isSideways();
        return Attachment.image(
                file.getPath(),
                isSideways ? bounds.outHeight : bounds.outWidth,
                isSideways ? bounds.outWidth : bounds.outHeight);
    }

    static boolean isTooLarge(Attachment picture) {
        return (long) picture.width * picture.height > PhotoPolicy.MAX_PIXELS;
    }

    @Override
    public PixelRows open() {
        final Bitmap bitmap = decode(file, PhotoPolicy.sampleSize(width, height));
        if (bitmap == null) {
            throw PalmtopException.input("picture " + file.getName() + ": cannot be decoded, expected a picture");
        }
        final Upright upright = upright(file);
        final Upright.Stored stored = new Upright.Stored() {
            @Override
            public void read(int[] argb, int x, int y, int columns, int rows) {
                bitmap.getPixels(argb, 0, columns, x, y, columns, rows);
            }
        };
        return new PixelRows() {
            @Override
            public int width() {
                return upright.isSideways() ? bitmap.getHeight() : bitmap.getWidth();
            }

            @Override
            public int height() {
                return upright.isSideways() ? bitmap.getWidth() : bitmap.getHeight();
            }

            @Override
            public void row(int y, int[] argb) {
                upright.row(stored, bitmap.getWidth(), bitmap.getHeight(), y, argb);
            }
        };
    }

    /** At most {@code side} pixels wide or high, for the screen; null when it cannot be decoded. */
    static Bitmap small(File file, int side) {
        BitmapFactory.Options bounds = new BitmapFactory.Options();
        bounds.inJustDecodeBounds = true;
        BitmapFactory.decodeFile(file.getPath(), bounds);
        int sample = 1;
        while (Math.max(bounds.outWidth, bounds.outHeight) / sample > side) {
            sample *= 2;
        }
        Bitmap bitmap = decode(file, sample);
        if (bitmap == null) {
            return null;
        }
        Upright upright = upright(file);
        final Bitmap whole = bitmap;
        boolean isSideways = upright.isSideways();
        int width = isSideways ? bitmap.getHeight() : bitmap.getWidth();
        int height = isSideways ? bitmap.getWidth() : bitmap.getHeight();
        Bitmap turned = Bitmap.createBitmap(width, height, Bitmap.Config.ARGB_8888);
        int[] row = new int[width];
        Upright.Stored stored = new Upright.Stored() {
            @Override
            public void read(int[] argb, int x, int y, int columns, int rows) {
                whole.getPixels(argb, 0, columns, x, y, columns, rows);
            }
        };
        for (int y = 0; y < height; y++) {
            upright.row(stored, bitmap.getWidth(), bitmap.getHeight(), y, row);
            turned.setPixels(row, 0, width, 0, y, width, 1);
        }
        return turned;
    }

    private static Bitmap decode(File file, int sample) {
        BitmapFactory.Options options = new BitmapFactory.Options();
        options.inSampleSize = sample;
        options.inPreferredConfig = Bitmap.Config.ARGB_8888;
        return BitmapFactory.decodeFile(file.getPath(), options);
    }

    private static Upright upright(File file) {
        try {
            ExifInterface exif = new ExifInterface(file.getPath());
            return Upright.of(exif.getAttributeInt(ExifInterface.TAG_ORIENTATION, 1));
        } catch (IOException error) {
            return Upright.of(1); // a format without EXIF
        }
    }
}
