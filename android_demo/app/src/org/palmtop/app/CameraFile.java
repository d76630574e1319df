package org.palmtop.app;

import android.content.ContentProvider;
import android.content.ContentValues;
import android.content.Context;
import android.database.Cursor;
import android.net.Uri;
import android.os.ParcelFileDescriptor;
import java.io.File;
import java.io.FileNotFoundException;

/** Lets the phone's camera app write one photo into the app's storage, by a grant for that one address. */
public final class CameraFile extends ContentProvider {
    static final String AUTHORITY = "org.palmtop.app.camera";

    /** The address of a file in the media folder. */
    static Uri address(File file) {
        return new Uri.Builder().scheme("content").authority(AUTHORITY).appendPath(file.getName()).build();
    }

    static File newPhoto(Context context) {
        return new File(((PalmtopApp) context.getApplicationContext()).mediaFolder(), "photo-" + System.nanoTime() + ".jpg");
    }

    @Override
    public ParcelFileDescriptor openFile(Uri uri, String mode) throws FileNotFoundException {
        String name = uri.getLastPathSegment();
        if (name == null || !name.matches("photo-[0-9-]+\\.jpg")) {
            throw new FileNotFoundException("no such photo");
        }
        File folder = ((PalmtopApp) getContext().getApplicationContext()).mediaFolder();
        return ParcelFileDescriptor.open(new File(folder, name), ParcelFileDescriptor.parseMode(mode));
    }

    @Override
    public boolean onCreate() {
        return true;
    }

    @Override
    public String getType(Uri uri) {
        return "image/jpeg";
    }

    @Override
    public Cursor query(Uri uri, String[] columns, String where, String[] values, String order) {
        return null;
    }

    @Override
    public Uri insert(Uri uri, ContentValues values) {
        return null;
    }

    @Override
    public int delete(Uri uri, String where, String[] values) {
        return 0;
    }

    @Override
    public int update(Uri uri, ContentValues values, String where, String[] whereValues) {
        return 0;
    }
}
