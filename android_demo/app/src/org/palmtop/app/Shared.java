package org.palmtop.app;

import android.content.ContentResolver;
import android.content.Intent;
import android.net.Uri;
import android.os.Parcelable;
import java.util.ArrayList;
import java.util.List;
import org.palmtop.app.logic.Attachment;

/** Pictures and sounds that another app shares with this one. */
final class Shared {
    private Shared() {}

    /** Take what an intent brings; false when it shares nothing that can be taken. */
    static boolean take(Intent intent, PalmtopApp app) {
        boolean isOld = (intent.getFlags() & Intent.FLAG_ACTIVITY_LAUNCHED_FROM_HISTORY) != 0;
        String action = intent.getAction();
        if (isOld || !(Intent.ACTION_SEND.equals(action) || Intent.ACTION_SEND_MULTIPLE.equals(action))) {
            return true; // the app was started, by its icon or from the list of recent ones
        }
        boolean isTaken = false;
        for (Uri address : addresses(intent)) {
            Attachment.Kind kind = kind(app.getContentResolver(), address, intent.getType());
            if (kind != null) {
                new Intake(app).take(address, kind);
                isTaken = true;
            }
        }
        return isTaken;
    }

    /** Only what another app grants: a path would be read with this app's own rights. */
    private static List<Uri> addresses(Intent intent) {
        List<Object> found = new ArrayList<Object>();
        try {
            if (Intent.ACTION_SEND.equals(intent.getAction())) {
                Parcelable one = intent.getParcelableExtra(Intent.EXTRA_STREAM);
                found.add(one);
            } else if (intent.getParcelableArrayListExtra(Intent.EXTRA_STREAM) != null) {
                found.addAll(intent.getParcelableArrayListExtra(Intent.EXTRA_STREAM));
            }
        } catch (RuntimeException error) {
            // an object of a class that is not there: another app's mistake, or its malice
        }
        List<Uri> addresses = new ArrayList<Uri>();
        for (Object one : found) {
            if (one instanceof Uri
                    && ContentResolver.SCHEME_CONTENT.equals(((Uri) one).getScheme())
                    && !CameraFile.AUTHORITY.equals(((Uri) one).getAuthority())) {
                addresses.add((Uri) one);
            }
        }
        return addresses;
    }

    private static Attachment.Kind kind(ContentResolver resolver, Uri address, String stated) {
        Attachment.Kind kind = Attachment.Kind.of(stated);
        if (kind != null) {
            return kind;
        }
        try {
            return Attachment.Kind.of(resolver.getType(address));
        } catch (RuntimeException error) { // the other app took its permission back, or failed
            return null;
        }
    }
}
