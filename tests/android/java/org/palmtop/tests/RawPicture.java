package org.palmtop.tests;

import java.io.IOException;
import java.util.Map;
import org.palmtop.core.media.Picture;
import org.palmtop.core.media.PixelRows;

/** A file of raw RGB or RGBA bytes; possibly smaller than the image it stands for. */
final class RawPicture extends Picture {
    private final String path;
    private final int pixelWidth;
    private final int pixelHeight;
    private final int channels;

    RawPicture(Request request) {
        super(request.text("path"), request.number("width"), request.number("height"));
        path = request.text("path");
        pixelWidth = request.has("pixel_width") ? request.number("pixel_width") : width;
        pixelHeight = request.has("pixel_height") ? request.number("pixel_height") : height;
        channels = request.has("channels") ? request.number("channels") : 3;
    }

    RawPicture(Map<?, ?> data) {
        this(new Request(data));
    }

    @Override
    public PixelRows open() {
        final byte[] bytes;
        try {
            bytes = Request.bytes(new java.io.File(path));
        } catch (IOException error) {
            throw new AssertionError(error);
        }
        return new PixelRows() {
            @Override
            public int width() {
                return pixelWidth;
            }

            @Override
            public int height() {
                return pixelHeight;
            }

            @Override
            public void row(int y, int[] argb) {
                for (int x = 0; x < pixelWidth; x++) {
                    int at = (y * pixelWidth + x) * channels;
                    int alpha = channels == 4 ? bytes[at + 3] & 255 : 255;
                    argb[x] = alpha << 24 | (bytes[at] & 255) << 16 | (bytes[at + 1] & 255) << 8 | bytes[at + 2] & 255;
                }
            }
        };
    }
}
